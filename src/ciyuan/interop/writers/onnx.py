"""ONNX graphs of our own definition: what the heads say of rows of ids, with batch and length left open.

    model.onnx            input_ids, attention_mask (, token_type_ids)                       one stack
    encoder_model.onnx    input_ids, attention_mask                                          encoder–decoder
    decoder_model.onnx    input_ids, encoder_hidden_states, encoder_attention_mask

Names are those that other tools for ONNX files of Transformers look for. Shapes: B rows, T positions, S of the source.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ciyuan.batch import Layout, Stream
from ciyuan.errors import ExportError
from ciyuan.interop.huggingface import Loaded, to_hugging_face, tokenizer_files
from ciyuan.interop.mapping import shown_name
from ciyuan.interop.writers.written import Written, outputs_of
from ciyuan.model.attention import Attention, reference_attention
from ciyuan.model.positions import LearnedPositions, RelativePositions, SinusoidalPositions, relative_buckets
from ciyuan.model.transformer import Transformer

LARGEST_GRAPH = 2**31 - 1
"""Bytes that protobuf holds; what is more keeps its weights in a file beside the graph."""


def write_onnx(folder: Path, loaded: Loaded, *, int8: bool, card: str) -> Written:
    """The graphs, the tokeniser's files and config.json. int8: matrices in 8 bits, activations quantised as they come."""
    model = _traceable(loaded.model)
    config = model.config
    ids, mask = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)
    if config.family == "encoder-decoder":
        memory = torch.zeros(2, 3, config.d_model)
        _export(
            _Encode(model),
            {"input_ids": ids, "attention_mask": mask},
            ["last_hidden_state"],
            folder / "encoder_model.onnx",
        )
        asked = {
            "input_ids": torch.ones(2, 4, dtype=torch.int64),
            "encoder_hidden_states": memory,
            "encoder_attention_mask": mask,
        }
        _export(_Decode(model), asked, ["logits"], folder / "decoder_model.onnx")
    else:
        asked = {"input_ids": ids, "attention_mask": mask}
        if config.n_token_types:
            asked["token_type_ids"] = torch.zeros_like(ids)
        _export(_Answer(model), asked, _names(model), folder / "model.onnx")
    if int8:
        for path in sorted(folder.glob("*.onnx")):
            _quantise(path)
    settings, _ = to_hugging_face(
        loaded.model, labels=loaded.info.get("labels"), multi_label=bool(loaded.info.get("multi_label"))
    )
    texts = {
        "config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
        **tokenizer_files(loaded.tokenizer, config),
        "README.md": card,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return Written(outputs_of(config))


def _names(model: Transformer) -> list[str]:
    """The outputs of a graph of one stack, in the order of `_Answer`."""
    config = model.config
    if config.head == "none":
        return ["last_hidden_state", "pooler_output"] if config.pooler else ["last_hidden_state"]
    if config.head == "span":
        return ["start_logits", "end_logits"]
    return ["logits", "next_sentence_logits"] if config.next_sentence else ["logits"]


def _layout(mask: Tensor) -> Layout:
    """Of an attention mask (B, T), padded at either side; nothing of it is promised, so that no branch depends on the data."""
    return Layout((mask.cumsum(dim=1) - 1).clamp(min=0), mask, padded=True, packed=True)


class _Answer(nn.Module):
    """A model of one stack, from ids to what its heads say."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        model, layout = self.model, _layout(attention_mask)
        hidden = model.hidden(Stream(input_ids, layout, token_type_ids))  # (B, T, D)
        if model.classifier is not None:
            if not model.classifier.last:
                return model.classifier(hidden, layout, model.pooler)
            ends = (attention_mask * torch.arange(attention_mask.shape[1])).amax(dim=1)  # (B,)
            token = hidden.gather(1, ends[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
            return model.classifier.scores(token)
        if model.span is not None:
            return model.span(hidden).unbind(dim=-1)
        if model.head is None:
            return hidden if model.pooler is None else (hidden, model.pooler(hidden))
        logits = model.logits(hidden)
        if model.next_sentence is None:
            return logits
        assert model.pooler is not None
        return logits, model.next_sentence(model.pooler(hidden))


class _Encode(nn.Module):
    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode(Stream(input_ids, _layout(attention_mask)))


class _Decode(nn.Module):
    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor) -> Tensor:
        text = Stream(input_ids, _layout(torch.ones_like(input_ids)))
        hidden = self.model.hidden(text, memory=encoder_hidden_states, memory_layout=_layout(encoder_attention_mask))
        return self.model.logits(hidden)


class _Sinusoidal(SinusoidalPositions):
    """As far as the table reaches: a graph cannot grow."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table[positions + self.config.position_offset]


class _Learned(LearnedPositions):
    """Without the check of the length, which the graph's look-up makes."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table(positions + self.offset)  # type: ignore[no-any-return]


class _Relative(RelativePositions):
    """Without the saving where all rows are alike, which a graph for any batch cannot have."""

    def bias(self, query: Tensor, key: Tensor) -> Tensor:
        distance = key[:, None, :] - query[:, :, None]  # (B, T, S)
        buckets = relative_buckets(
            distance, n_buckets=self.table.num_embeddings, max_distance=self.max_distance, causal=self.causal
        )
        return self.table(buckets).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


TRACEABLE = {SinusoidalPositions: _Sinusoidal, LearnedPositions: _Learned, RelativePositions: _Relative}
"""Positions whose hooks look at the data, to twins that do not."""


def _traceable(model: Transformer) -> Transformer:
    """A copy whose every operation a graph can hold: the readable attention core, and positions without branches."""
    model = copy.deepcopy(model).float().eval()
    for module in model.modules():
        if isinstance(module, Attention):
            module.core = reference_attention
        twin = TRACEABLE.get(cast(Any, type(module)))
        if twin is not None:
            module.__class__ = twin
    return model


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], path: Path) -> None:
    """Write one graph. The first axis of every input is the batch, the second a length."""
    axes = {name: {0: "batch", 1: "source_length" if name.startswith("encoder_") else "length"} for name in inputs}
    with _quiet(), torch.inference_mode(), _saying_what_it_cannot(path):
        program = torch.onnx.export(
            module.eval(), kwargs=inputs, dynamo=True, dynamic_shapes=axes, input_names=list(inputs),
            output_names=list(outputs), verbose=False, optimize=True,
        )  # fmt: skip
        assert program is not None
        program.save(path)


@contextlib.contextmanager
def _saying_what_it_cannot(path: Path) -> Iterator[None]:
    """Turn what torch's exporter cannot trace or translate into an ExportError."""
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        reason = next((line for line in reversed(str(error.__cause__ or error).splitlines()) if line.strip()), "")
        raise ExportError(
            f"torch cannot write this model as {path.name}: {shown_name(reason)}",
            fix="choose another format: --format hf",
        ) from None


def _quantise(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    large = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) > LARGEST_GRAPH
    draft = path.with_name(f"tmp-{path.name}")
    with _quiet():
        quantize_dynamic(path, draft, weight_type=QuantType.QInt8, use_external_data_format=large)
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    draft.rename(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about itself: its own deprecations, and libraries that it does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
