"""Autoregressive language modelling: each token given those before it, −Σ log P(x_i | x_<i)."""

from __future__ import annotations

from collections.abc import Sequence

from ciyuan.batch import IGNORED, Batch, Loss
from ciyuan.data.blocks import Block
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import Row, as_row, joined, numbered, packed, padded
from ciyuan.objectives.token_loss import next_token_loss


class CausalLM:
    """A decoder's pretraining. Source: Radford et al. 2018, eq. 1.

    a document          <s> x₁ x₂ … x_n     asks for     x₁ x₂ … x_n </s>
    its first block     <s> x₁ … x_k₋₁      asks for     x₁ … x_k
    the block after it  x_k x_k₊₁ … x_n     asks for     x_k₊₁ … x_n </s>

    So each token of a document is asked for once, and its end is learnt where it has one. Blocks that share a row do not see
    one another.
    """

    columns = ("text",)

    def __init__(self, *, pad_id: int, bos_id: int | None, eos_id: int | None, label_smoothing: float = 0.0) -> None:
        """bos_id, eos_id: what stands before and after a document; without a BOS its first token is read but not asked for.

        Padding goes by its place, not its id: a model from elsewhere whose PAD is its EOS learns the end all the same.
        """
        self.pad_id, self.bos_id, self.eos_id, self.label_smoothing = pad_id, bos_id, eos_id, label_smoothing

    def collate(self, examples: Sequence[Sequence[Block]], *, numbers: Sequence[int] = (), epoch: int = 0) -> Batch:
        """Lines of blocks to a batch with a row for each."""
        lines = [[whole for block in line if len(whole := self._whole(block)) > 1] for line in examples]
        targets = padded([joined([whole[1:] for whole in line]) for line in lines], IGNORED)
        return Batch(
            text=packed([[whole[:-1] for whole in line] for line in lines], self.pad_id),
            targets=targets,
            count=int((targets != IGNORED).sum()),
            examples=tuple(numbered(examples, numbers)),
        )

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Summed over all tokens and the ends of documents."""
        return next_token_loss(model, batch, label_smoothing=self.label_smoothing)

    def _whole(self, block: Block) -> Row:
        assert block.starts or block.before is not None, "a block that does not start its document follows a token"
        return as_row(
            self.bos_id if block.starts else block.before, block.tokens, self.eos_id if block.ends else None
        )  # fmt: skip
