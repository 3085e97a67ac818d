"""The formats: what each can be written in, which runtime proves it, and how far that one may be from us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciyuan.errors import ExportError
from ciyuan.export.proof import Tolerance
from ciyuan.interop.huggingface import Loaded
from ciyuan.interop.writers import Written
from ciyuan.interop.writers.written import DTYPES

Write = Callable[[Path, Loaded, str, str | None, str], Written]
"""folder, model, dtype, quantisation, model card: writes the folder."""

EXACT = 5e-4
"""For two float32 computations of one function in different orders: the largest seen in small random models was 2e-4."""


@dataclass(frozen=True)
class Format:
    """runtime: the module that must be importable, and the extra of ours that brings it. tools: the distributions that write it.
    script: what asks the runtime. dtypes, quantisations: what it is written in, each with its tolerance in standard deviations of
    our own logits."""

    runtime: str
    extra: str
    tools: tuple[str, ...]
    script: str
    dtypes: Mapping[str, float]
    quantisations: Mapping[str, float]
    write: Write


def _hugging_face(folder: Path, loaded: Loaded, dtype: str, _: str | None, card: str) -> Written:
    from ciyuan.interop.writers.hugging_face import write_hugging_face

    return write_hugging_face(folder, loaded, dtype=DTYPES[dtype], card=card)


def _ctranslate2(folder: Path, loaded: Loaded, dtype: str, quantisation: str | None, card: str) -> Written:
    from ciyuan.interop.writers.ctranslate2 import write_ctranslate2

    return write_ctranslate2(folder, loaded, quantization=quantisation or dtype, card=card)


def _onnx(folder: Path, loaded: Loaded, _: str, quantisation: str | None, card: str) -> Written:
    from ciyuan.interop.writers.onnx import write_onnx

    return write_onnx(folder, loaded, int8=quantisation == "int8", card=card)


def _gguf(folder: Path, loaded: Loaded, dtype: str, quantisation: str | None, card: str) -> Written:
    from ciyuan.interop.gguf import write_gguf

    kind = quantisation or {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype]
    write_gguf(folder / "model.gguf", loaded.model, loaded.tokenizer, loaded.info, dtype=kind)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return Written(("logits",))


FORMATS: dict[str, Format] = {
    # Weights of 16 bits are widened, so that both sides compute in float32.
    "hf": Format(
        "transformers", "hf", ("safetensors",), "run_transformers.py",
        dtypes={"float32": EXACT, "float16": EXACT, "bfloat16": EXACT}, quantisations={}, write=_hugging_face,
    ),
    # Likewise; in 8 bits the inputs of every matrix are rounded too.
    "ctranslate2": Format(
        "ctranslate2", "ctranslate2", ("ctranslate2", "transformers"), "run_ctranslate2.py",
        dtypes={"float32": EXACT, "float16": EXACT, "bfloat16": EXACT},
        quantisations={"int8": 0.25, "int8_float32": 0.25, "int8_float16": 0.25}, write=_ctranslate2,
    ),
    "onnx": Format(
        "onnxruntime", "onnx", ("onnx", "onnxscript", "onnxruntime"), "run_onnxruntime.py",
        dtypes={"float32": EXACT}, quantisations={"int8": 0.25}, write=_onnx,
    ),
    # llama.cpp looks GELU up in a table of 16-bit floats, and rounds a matrix's inputs to the kind of its weights.
    "gguf": Format(
        "llama_cpp", "llama-cpp", (), "run_llama_cpp.py",
        dtypes={"float32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}, quantisations={"q8_0": 0.1}, write=_gguf,
    ),
}  # fmt: skip


def format_named(name: str, *, dtype: str, quantisation: str | None) -> tuple[Format, Tolerance]:
    """A format, and the tolerance of what is asked of it. Raises ExportError at what it cannot be written in."""
    if name not in FORMATS:
        raise ExportError(f"{name!r} is no format", where="--format", allowed=f"formats: {', '.join(FORMATS)}")
    found = FORMATS[name]
    asked: dict[str, tuple[Any, Mapping[str, float], str]] = {
        "--dtype": (dtype, found.dtypes, ""),
        "--quantize": (quantisation, found.quantisations, ", or leave it out"),
    }
    for option, (value, known, more) in asked.items():
        if value is not None and value not in known:
            raise ExportError(
                f"{name} is not written in {value}", where=option,
                allowed=f"allowed: {', '.join(known)}{more}" if known else f"{name} has no such option",
            )  # fmt: skip
    if quantisation is not None and dtype != "float32":
        raise ExportError(f"{dtype} has no say beside --quantize", where="--dtype", fix="give one of the two")
    if quantisation is None:
        return found, Tolerance(found.dtypes[dtype])
    return found, Tolerance(found.quantisations[quantisation], "root mean square")
