"""A CTranslate2 folder, made by CTranslate2's own converter, in a process of its own, from our Hugging Face folder."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from ciyuan.errors import ExportError
from ciyuan.interop.ends import stop_ids
from ciyuan.interop.huggingface import Loaded, family_of
from ciyuan.interop.runners.process import MissingRuntime, ScriptError, run_script
from ciyuan.interop.writers.hugging_face import write_hugging_face
from ciyuan.interop.writers.written import Written

ENCODERS = frozenset({"bert", "distilbert", "roberta"})
"""The model types that CTranslate2 computes the hidden states of; it has none of their heads."""
COPIED = ("tokenizer.json", "tokenizer_config.json")
FIX = "choose another format: --format hf, or onnx"
SATURATES = (
    "on a processor without VNNI sums of two 8-bit products are cut off at 16 bits, and answers are coarser; there, "
    'compute_type="float32" takes the same small file and cuts nothing off'
)
"""Measured: on one without, cutting them off explains the differences of int8 (correlation 0.99); rounding alone does not (0.2)."""


def write_ctranslate2(folder: Path, loaded: Loaded, *, quantization: str, card: str) -> Written:
    """quantization: as CTranslate2 spells it. Raises ExportError, naming what CTranslate2 has no place for."""
    config = loaded.model.config
    family = family_of(config)
    quantised = quantization.startswith("int8")
    options = {"compute_type": "default" if quantised else "float32"}  # 16-bit weights are widened where they are read
    written = _outputs(loaded, family.model_type)
    advice = (*written.advice, SATURATES) if quantised else written.advice
    written = replace(written, rounded_tables=not quantised, options=options, advice=advice)
    with tempfile.TemporaryDirectory(prefix="tmp-source-", dir=folder.parent) as scratch:
        source = Path(scratch)
        write_hugging_face(source, loaded, dtype=torch.float32, card=card)
        request = {"source": str(source), "out": str(folder), "quantization": quantization}
        try:
            run_script("convert_ctranslate2.py", request)
        except MissingRuntime as error:
            raise ImportError(str(error)) from None
        except ScriptError as error:
            raise ExportError(
                f"CTranslate2's converter cannot carry this {family.class_of(config)}: {error}", fix=FIX
            ) from None
        for name in COPIED:
            shutil.copy(source / name, folder / name)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return written


def _outputs(loaded: Loaded, model_type: str) -> Written:
    config = loaded.model.config
    if config.family == "encoder":
        if model_type not in ENCODERS:
            raise ExportError(
                f"CTranslate2 cannot carry a model of type {model_type}",
                allowed=f"encoders that it computes: {', '.join(sorted(ENCODERS))}", fix=FIX,
            )  # fmt: skip
        if config.head in ("classification", "span"):
            raise ExportError(f"CTranslate2 has no {config.head} head, and this model is nothing without it", fix=FIX)
        heads = ["the language-model head"] if config.head == "language-model" else []
        heads += ["the next-sentence head"] if config.next_sentence else []
        heads += [] if config.pooler else ["a pooler: the model has none, and pooler_output means nothing"]
        return Written(("hidden", "pooled") if config.pooler else ("hidden",), left_out=tuple(heads))
    if config.head != "language-model":
        raise ExportError(f"CTranslate2 has no {config.head} head for a {config.family}", fix=FIX)
    ends, reserved = {config.eos_id, *stop_ids(loaded.info)}, {config.pad_id, config.bos_id, config.start_id}
    pieces = [
        loaded.tokenizer.token(token) for token in sorted(token for token in reserved - ends if token is not None)
    ]
    advice = (f"these are never written by our decoding: pass them as suppress_sequences: {', '.join(pieces)}",)
    if config.family == "decoder":
        return Written(("logits",), advice=advice)
    return Written(("target_log_probs", "written_logits"), advice=advice)
