"""A Hugging Face folder for others: in the precision asked for, without what is ours alone, large weights in several files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ciyuan.interop.folder import FINGERPRINT, INDEX, WEIGHTS, fingerprint
from ciyuan.interop.huggingface import INFO, Loaded, save_model_folder
from ciyuan.interop.writers.written import Written, outputs_of

LARGEST_FILE = 5_000_000_000
"""Bytes of tensors in one file; what is more is split, as transformers does, so that no tool meets a file too large for it."""


def write_hugging_face(folder: Path, loaded: Loaded, *, dtype: torch.dtype, card: str) -> Written:
    """The folder of a model whose weights are already rounded to `dtype`, whatever precision they are held in."""
    model = copy.deepcopy(loaded.model).to(dtype)  # a copy: tables of sines would come back rounded
    save_model_folder(folder, model, loaded.tokenizer, loaded.info, card)
    (folder / INFO).unlink()
    split_weights(folder, largest=LARGEST_FILE)
    return Written(outputs_of(loaded.model.config))


def split_weights(folder: Path, *, largest: int) -> None:
    """model.safetensors in several files and an index where it has more than `largest` bytes of tensors; each file at most that,
    unless one tensor alone is larger."""
    with safe_open(folder / WEIGHTS, "pt") as whole:
        names = sorted(whole.keys())
        sizes = {name: _bytes(whole.get_tensor(name)) for name in names}
        if sum(sizes.values()) <= largest:
            return
        parts: list[list[str]] = [[]]
        filled = 0
        for name in names:
            if parts[-1] and filled + sizes[name] > largest:
                parts.append([])
                filled = 0
            parts[-1].append(name)
            filled += sizes[name]
        places: dict[str, str] = {}
        for number, part in enumerate(parts, start=1):
            file = f"model-{number:05}-of-{len(parts):05}.safetensors"
            tensors = {name: whole.get_tensor(name) for name in part}
            save_file(tensors, folder / file, metadata={"format": "pt", FINGERPRINT: fingerprint(tensors)})
            places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / WEIGHTS).unlink()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
