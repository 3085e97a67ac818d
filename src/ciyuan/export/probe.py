"""What a model and its export are both asked: texts of every kind, as rows of ids; and what we answer.

Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.generation import greedy_search
from ciyuan.generation.decoding import forbidden_tokens
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import as_row, stream
from ciyuan.prediction.reading import ends, markers
from ciyuan.text import Tokenizer

TEXTS = (
    "Choose the file that you want to open.",
    "北京是中国的首都，人口超过两千万。",
    "def area(radius):\n    return 3.14159 * radius ** 2  # 圆的面积\n",
    "🙂 naïve café: 👩‍👩‍👧‍👦 × ½ ≈ ﬁ",
    "",
    " ",
    "\n\n",
    "a",
    "2026-11-25, 3.5 % (¥1,299.00) & more…",
    "她说：“Hello, 世界！” — then left.",
    " ".join(
        f"{number}. Open the Help menu, choose About, and read the version number. 打开帮助菜单，选择“关于”。"
        for number in range(1, 9)
    ),
)
LONGEST, LONGEST_TARGET, LONGEST_PROMPT, NEW_TOKENS = 192, 48, 32, 16
"""Tokens: of what is read, of what a decoder is given to score, of what greedy text goes on from, and of that text."""

MASKED_EVERY = 4
"""Of a masked language model's text, each fourth token is hidden."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Probe:
    """texts: whose ids are compared. reads, targets: rows of an encoder or a decoder alone; of the source, and of what the
    decoder reads. prompts: rows that greedy text of at most new_tokens is written for; none where the model does not write.
    numbers, prompted: of each row in reads, and in prompts, the text it was made of."""

    texts: tuple[str, ...]
    reads: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]
    prompted: tuple[int, ...]
    new_tokens: int


def build_probe(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str] = TEXTS) -> Probe:
    """The probe of a model; texts that give it nothing to read have only their ids compared."""
    config = model.config
    writes = config.head == "language-model" and config.family != "encoder"
    if config.head == "language-model":
        head, tail = markers(model, tokenizer)
    else:
        head, tail = (as_row(marker) for marker in ends(model, tokenizer))
    room = min(LONGEST, config.max_positions) - len(head) - len(tail)
    encoded = tokenizer.encode_batch(texts)
    reads, numbers = [], []
    for number, ids in enumerate(encoded):
        ids = ids[:room]
        if config.family == "encoder" and config.head == "language-model" and tokenizer.has("mask"):
            ids = [tokenizer.mask_id if i % MASKED_EVERY == 1 else token for i, token in enumerate(ids)]
        row = tuple(as_row(head, ids, tail).tolist())
        if row:
            reads.append(row)
            numbers.append(number)
    both = config.family == "encoder-decoder"
    targets: list[tuple[int, ...]] = []
    if both:
        longest = min(LONGEST_TARGET, config.max_positions) - len(config.decoder_prefix)
        targets = [(*config.decoder_prefix, *encoded[number - 1][:longest]) for number in numbers]  # another text's
    new_tokens = min(NEW_TOKENS, max(1, config.max_positions // 2 - 1))
    longest = LONGEST if both else min(LONGEST_PROMPT, config.max_positions // 2)
    # An empty source is not asked for: CTranslate2 answers it with nothing, whatever the model would say, and so do we.
    asked = (
        [i for i, number in enumerate(numbers) if encoded[number] or not both]
        if writes and config.eos_id is not None
        else []
    )
    return Probe(
        tuple(texts), tuple(reads), tuple(targets), tuple(reads[i][:longest] for i in asked), tuple(numbers),
        tuple(numbers[i] for i in asked), new_tokens,
    )  # fmt: skip


def request_of(probe: Probe, config: ModelConfig, *, folder: str, outputs: Sequence[str]) -> dict[str, Any]:
    """What the runtime's script is asked."""
    return {
        "model": folder, "outputs": list(outputs), "family": config.family, "texts": probe.texts, "reads": probe.reads,
        "targets": probe.targets, "prompts": probe.prompts, "new_tokens": probe.new_tokens, "pad": config.pad_id,
        "prefix": config.decoder_prefix if config.family == "encoder-decoder" else [], "eos": config.eos_id,
        "forbidden": forbidden_tokens(config), "token_types": config.n_token_types > 0,
    }  # fmt: skip


@torch.inference_mode()
def our_outputs(model: Transformer, probe: Probe, names: Sequence[str]) -> dict[str, list[Array]]:
    """Our answers by the names of `ANSWERS`, each a list of one array for each row that is read, row by row."""
    found: dict[str, list[Array]] = {name: [] for name in names if name in ANSWERS}
    for number, row in enumerate(probe.reads):
        source = _row(row)
        if model.config.family == "encoder-decoder":
            target = _row(probe.targets[number])
            hidden = model.hidden(target, memory=model.encode(source), memory_layout=source.layout)
        else:
            target, hidden = source, model.hidden(source)
        for name, answers in found.items():
            answers.append(ANSWERS[name](model, hidden, target)[0].float().numpy())
    return found


@torch.inference_mode()
def next_logits(model: Transformer, prompt: Sequence[int], written: Sequence[int]) -> Array:
    """(T, V): our logits of each token after the prompt, given what was written before it, and of what would follow it all."""
    if model.config.family == "encoder-decoder":
        source, prefix = _row(prompt), model.config.decoder_prefix
        hidden = model.hidden(
            _row([*prefix, *written]), memory=model.encode(source), memory_layout=source.layout
        )[:, len(prefix) - 1 :]  # fmt: skip
    else:
        hidden = model.hidden(_row([*prompt, *written]))[:, len(prompt) - 1 :]
    found: Array = model.logits(hidden)[0].float().numpy()
    return found


def our_text(model: Transformer, probe: Probe) -> list[list[int]]:
    """Ids of the greedy text after each prompt, without EOS."""
    if not probe.prompts:
        return []
    rows = stream([np.asarray(row, dtype=np.int64) for row in probe.prompts], model.config.pad_id)
    found = greedy_search(model, rows, limits=[probe.new_tokens] * len(probe.prompts))
    return [list(hypothesis.tokens) for hypothesis in found]


def _row(ids: Sequence[int]) -> Stream:
    tokens = torch.tensor([list(ids)])
    return Stream(tokens, Layout.whole(tokens))


def _logits(model: Transformer, hidden: Tensor, text: Stream) -> Tensor:
    if model.classifier is not None:
        return model.classifier(hidden, text.layout, model.pooler)  # type: ignore[no-any-return]
    return model.logits(hidden) if model.span is None else model.span(hidden)


def _pooled(model: Transformer, hidden: Tensor, _: Stream) -> Tensor:
    assert model.pooler is not None, "who asks has seen it"
    return model.pooler(hidden)  # type: ignore[no-any-return]


def _next_sentence(model: Transformer, hidden: Tensor, text: Stream) -> Tensor:
    assert model.next_sentence is not None, "who asks has seen it"
    return model.next_sentence(_pooled(model, hidden, text))  # type: ignore[no-any-return]


def _target_log_probs(model: Transformer, hidden: Tensor, text: Stream) -> Tensor:
    """(1, T) in nats: of the target's tokens and of EOS, each after those before it."""
    assert model.config.eos_id is not None, "a model that writes knows its EOS"
    follows = torch.tensor([[*text.tokens[0, 1:].tolist(), model.config.eos_id]])
    return model.logits(hidden).float().log_softmax(dim=-1).gather(2, follows[..., None])[..., 0]


ANSWERS: dict[str, Callable[[Transformer, Tensor, Stream], Tensor]] = {
    "logits": _logits,
    "next_sentence": _next_sentence,
    "hidden": lambda _, hidden, text: hidden,
    "pooled": _pooled,
    "target_log_probs": _target_log_probs,
}
"""What a model can be asked about a row: (1, …) each. Beside these, "written_logits" are those along the text that it wrote."""
