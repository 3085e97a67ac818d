"""A trained model in Python: `ciyuan.load(folder)`, and the verbs of the command line as methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.config import Sheet, build
from ciyuan.errors import ModelFolderError, UserError
from ciyuan.interop import load_model_folder
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer

if TYPE_CHECKING:
    from ciyuan.generation import Translation

Kind = TypeVar("Kind", str, int)
Ids = Tensor | Sequence[Sequence[int]]


def load(folder: str | Path, *, threads: int | None = None, device: str = "cpu") -> Model:
    """The model in a folder, ready to be put to work. Nothing is fetched from a network.

    Raises ModelFolderError where the folder is missing, incomplete or damaged.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model_folder(Path(folder))
    return Model(loaded.model.to(device).eval(), loaded.tokenizer, loaded.info, folder=Path(folder))


class Model:
    """A model, its tokeniser and what is known of it."""

    def __init__(
        self, transformer: Transformer, tokenizer: Tokenizer, info: Mapping[str, Any], *, folder: Path | None = None
    ) -> None:
        self.transformer, self.tokenizer, self.info, self.folder = transformer, tokenizer, info, folder

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config

    @property
    def source(self) -> str | None:
        """The language translated from, where it is known."""
        return self._known("source", str)

    @property
    def target(self) -> str | None:
        """The language translated into, where it is known."""
        return self._known("target", str)

    @property
    def max_source(self) -> int | None:
        """The longest source in tokens that the model was trained on, where it is known."""
        found = self._known("max_length", int)
        if found is not None and found < 1:
            raise ModelFolderError(f"ciyuan.json says that max_length is {found}", where=self.folder, fix="train again")
        return found

    def _known(self, name: str, kind: type[Kind]) -> Kind | None:
        """What ciyuan.json says, which anybody may have written."""
        found = self.info.get(name)
        if found is not None and (not isinstance(found, kind) or isinstance(found, bool)):
            raise ModelFolderError(
                f"ciyuan.json has a {name} that is no {kind.__name__}", where=self.folder, fix="train again"
            )
        return found

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @overload
    def translate(self, texts: str, *, beam: int = ..., **options: Any) -> str: ...
    @overload
    def translate(self, texts: Sequence[str], *, beam: int = ..., **options: Any) -> list[str]: ...
    def translate(self, texts: str | Sequence[str], *, beam: int = 4, **options: Any) -> str | list[str]:
        """Translations of the texts, in their order; a text for a text, a list for a list.

        beam: hypotheses kept, 1 is greedy. options: the others of `DecodingSettings`, e.g. length_penalty, max_length,
        batch_tokens. A text too long for the model is split at its sentences; `translations` says whether anything is missing.
        """
        if isinstance(texts, str):
            return self.translations([texts], beam=beam, **options)[0].text
        return [translation.text for translation in self.translations(texts, beam=beam, **options)]

    def translations(self, texts: Sequence[str], *, beam: int = 4, **options: Any) -> list[Translation]:
        """As `translate`, with what is known of each: text, score, tokens, finish_reason, truncated, flags."""
        self.check_task("translate")
        from ciyuan.generation import DecodingSettings, translate

        return translate(
            self.transformer,
            self.tokenizer,
            texts,
            settings=build(DecodingSettings, Sheet("translate", {"beam": beam, **options}, {})),
            source=self.source,
            target=self.target,
            max_source=self.max_source,
        )

    def logits(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        token_type_ids: Ids | None = None,
        decoder_input_ids: Ids | None = None,
    ) -> Tensor:
        """(B, T, V) scores of every token at every position, in the model's precision.

        input_ids: (B, T), or (B, S) of the source for an encoder–decoder, whose decoder reads decoder_input_ids (B, T).
        attention_mask: as input_ids, 1 = text, 0 = padding; by default everything is text.
        """
        vocab_size = self.config.vocab_size
        tokens = self._table(input_ids, "input_ids", vocab_size)
        layout = Layout.whole(tokens)
        if attention_mask is not None:
            layout = Layout.of_mask(self._table(attention_mask, "attention_mask", 2, like=tokens))
        types = None
        if token_type_ids is not None:
            types = self._table(token_type_ids, "token_type_ids", max(1, self.config.n_token_types), like=tokens)
        stream = Stream(tokens, layout, types)
        with torch.inference_mode():
            if self.config.family != "encoder-decoder":
                if decoder_input_ids is not None:
                    raise UserError("decoder_input_ids are for an encoder–decoder; this model has one stack")
                return self.transformer.logits(self.transformer.hidden(stream))
            if decoder_input_ids is None:
                raise UserError(
                    "an encoder–decoder needs decoder_input_ids", fix="give the target's ids, shifted right"
                )
            target = self._table(decoder_input_ids, "decoder_input_ids", vocab_size)
            if len(target) != len(tokens):
                raise UserError(f"input_ids have {len(tokens)} rows and decoder_input_ids {len(target)}")
            memory = self.transformer.encode(stream)
            hidden = self.transformer.hidden(Stream(target, Layout.whole(target)), memory=memory, memory_layout=layout)
            return self.transformer.logits(hidden)

    def check_task(self, task: str) -> None:
        """Raises ModelFolderError if the model was trained for something else."""
        if self.config.family != "encoder-decoder" or self.info.get("task") not in (None, task):
            raise ModelFolderError(
                f"this model does not {task}: it was trained to {self.info.get('task') or 'do something else'}",
                where=self.folder,
            )

    def _table(self, rows: Ids, name: str, below: int, *, like: Tensor | None = None) -> Tensor:
        """Rows of whole numbers 0 … below − 1 as (B, T) int64, of the shape of `like` if that is given."""
        try:
            table = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        except (ValueError, TypeError, OverflowError, RuntimeError):
            raise UserError(f"{name} are not rows of equally many ids", fix="pad the shorter rows") from None
        if table.ndim != 2 or table.numel() == 0:
            raise UserError(f"{name} have the shape {tuple(table.shape)}", allowed="a batch of rows, (B, T)")
        if like is not None and table.shape != like.shape:
            raise UserError(f"{name} have the shape {tuple(table.shape)}, input_ids {tuple(like.shape)}")
        low, high = int(table.min()), int(table.max())
        if low < 0 or high >= below:
            raise UserError(f"{name} hold {low if low < 0 else high}", allowed=f"0 … {below - 1}")
        return table
