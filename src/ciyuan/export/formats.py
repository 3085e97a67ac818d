"""The formats: what each can be written in, which runtime proves it, and how far that one may be from us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ciyuan.errors import ExportError, did_you_mean
from ciyuan.export.proof import NextToken, Tolerance
from ciyuan.interop.huggingface import Loaded
from ciyuan.interop.writers import Written
from ciyuan.interop.writers.written import DTYPES

Write = Callable[[Path, Loaded, str, str | None, str], Written]
"""folder, model, dtype, quantisation, model card: writes the folder."""

SAME = Tolerance(
    5e-4, why="both compute in float32, weights of 16 bits widened, but in different orders: in small random models up to 2e-4"
)
EIGHT_BITS = "weights, and the inputs of every matrix, are rounded to 8 bits there, and not by us; "
CTRANSLATE2_INT8 = Tolerance(
    0.25, "root mean square", NextToken(divergence=0.05, margin=1.0),
    why=EIGHT_BITS + "where the processor has no VNNI, sums of two products are cut off at 16 bits too: in small trained "
    "models the divergence was then up to 0.01, the margin 0.5",
)  # fmt: skip
ONNX_INT8 = Tolerance(
    0.25, "root mean square", NextToken(divergence=0.03, margin=0.6),
    why=EIGHT_BITS + "in small trained models the divergence was up to 0.0024, the margin 0.17",
)  # fmt: skip
Q8_0 = Tolerance(
    0.1, "root mean square", NextToken(divergence=0.01, margin=0.3),
    why=EIGHT_BITS + "a scale for each 32 numbers: in small trained models the divergence was up to 0.0003, the margin 0.05",
)  # fmt: skip


@dataclass(frozen=True)
class Format:
    """runtime: the module that must be importable, and the extra of ours that brings it. tools: the distributions that write it.
    script: what asks the runtime. dtypes, quantisations: what it is written in, each with its tolerance."""

    runtime: str
    extra: str
    tools: tuple[str, ...]
    script: str
    dtypes: Mapping[str, Tolerance]
    quantisations: Mapping[str, Tolerance]
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
    notes = write_gguf(folder / "model.gguf", loaded.model, loaded.tokenizer, loaded.info, dtype=kind)
    (folder / "README.md").write_text(card, encoding="utf-8")
    ends = bool(loaded.tokenizer.around.tail)
    if ends:
        notes.append("a text does not end in EOS there, as it does for us: GGUF is for prompts, which are gone on with")
    return Written(("logits",), advice=tuple(notes), options={"framed": not ends})


FORMATS: dict[str, Format] = {
    "hf": Format(
        "transformers", "hf", ("safetensors",), "run_transformers.py",
        dtypes={"float32": SAME, "float16": SAME, "bfloat16": SAME}, quantisations={}, write=_hugging_face,
    ),
    "ctranslate2": Format(
        "ctranslate2", "ctranslate2", ("ctranslate2", "transformers"), "run_ctranslate2.py",
        dtypes={"float32": SAME, "float16": SAME, "bfloat16": SAME},
        quantisations=dict.fromkeys(("int8", "int8_float32", "int8_float16"), CTRANSLATE2_INT8), write=_ctranslate2,
    ),
    "onnx": Format(
        "onnxruntime", "onnx", ("onnx", "onnxscript", "onnxruntime"), "run_onnxruntime.py",
        dtypes={"float32": SAME}, quantisations={"int8": ONNX_INT8}, write=_onnx,
    ),
    "gguf": Format(
        "llama_cpp", "llama-cpp", (), "run_llama_cpp.py",
        dtypes={
            "float32": Tolerance(1e-2, why="llama.cpp looks GELU up in a table of 16-bit floats"),
            "float16": Tolerance(2e-2, why="llama.cpp rounds the inputs of every matrix to float16 too"),
            "bfloat16": Tolerance(1e-1, why="llama.cpp rounds the inputs of every matrix to bfloat16 too"),
        },
        quantisations={"q8_0": Q8_0}, write=_gguf,
    ),
}  # fmt: skip


def format_named(name: str, *, dtype: str, quantisation: str | None) -> tuple[Format, Tolerance]:
    """A format, and the tolerance of what is asked of it. Raises ExportError at what it cannot be written in."""
    if name not in FORMATS:
        raise ExportError(
            f"{name!r} is no format",
            where="--format",
            allowed=f"formats: {', '.join(FORMATS)}",
            fix=did_you_mean(name, FORMATS),
        )
    found = FORMATS[name]
    options = {"--dtype": (dtype, found.dtypes), "--quantize": (quantisation, found.quantisations)}
    for option, (value, known) in options.items():
        if value is None or value in known:
            continue
        other = next((each for each, (_, there) in options.items() if value in there), None)
        more = ", or leave it out" if option == "--quantize" else ""
        raise ExportError(
            f"{name} is not written in {value}", where=option,
            allowed=f"allowed: {', '.join(known)}{more}" if known else f"{name} has no such option",
            fix=f"say {other} {value}" if other else did_you_mean(value, known),
        )  # fmt: skip
    if quantisation is not None and dtype != "float32":
        raise ExportError(f"{dtype} has no say beside --quantize", where="--dtype", fix="give one of the two")
    return found, found.dtypes[dtype] if quantisation is None else found.quantisations[quantisation]
