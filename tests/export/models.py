"""Small models whose greedy text is no single token again and again, and ways to damage what is written of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ciyuan.export.formats import FORMATS, Format
from ciyuan.interop import save_model_folder
from ciyuan.interop.huggingface import Loaded
from ciyuan.interop.writers import Written
from ciyuan.model import Transformer, initialise
from tests.interop.folders import config, model, tokenizer_for


def saved(folder: Path, preset: str, **changes: object) -> Path:
    """A random model, its matrices large enough that what it reads decides what it writes."""
    tokens = tokenizer_for(preset)
    made = model(config(preset, tokens, **changes))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".blocks." in name and parameter.ndim == 2:
                parameter.mul_(3)
    save_model_folder(folder, made, tokens, {"task": None}, "# A card\n")
    return folder


def saved_calm(folder: Path, preset: str, **changes: object) -> Path:
    """A model as it is before training, its matrices somewhat larger: nothing in it makes much of a small change of its weights."""
    tokens = tokenizer_for(preset)
    made = Transformer(config(preset, tokens, **changes))
    initialise(made, scheme="normal", seed=0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2.5)
    save_model_folder(folder, made.eval(), tokens, {"task": None}, "# A card\n")
    return folder


def damaged(name: str, damage: Callable[[Path], None]) -> Format:
    """A format that writes as it should, and then something happens to the files."""
    whole = FORMATS[name]

    def write(folder: Path, loaded: Loaded, dtype: str, quantisation: str | None, card: str) -> Written:
        written = whole.write(folder, loaded, dtype, quantisation, card)
        damage(folder)
        return written

    return replace(whole, write=write)


def perturb(name: str) -> Callable[[Path], None]:
    """One number of one tensor of a Hugging Face folder."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        tensors[name].view(-1)[3] += 0.1
        save_file(tensors, path, metadata={"format": "pt"})

    return damage


def swap_tokens(folder: Path) -> None:
    """The ids of e and o."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["e"], vocabulary["o"] = vocabulary["o"], vocabulary["e"]
    path.write_text(json.dumps(content), encoding="utf-8")


def untie(folder: Path) -> None:
    """A model that says that its head is a matrix of its own, and has none."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "tie_word_embeddings": False}), encoding="utf-8")
