"""Writing a model folder: every file whole, or as it was before."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ciyuan.data.folders import saying_disk_errors
from ciyuan.interop.ends import ENDS, MODEL, stop_ids, written_ends
from ciyuan.interop.folder import FINGERPRINT, INFO, WEIGHTS, fingerprint
from ciyuan.interop.huggingface.classes import family_of
from ciyuan.interop.huggingface.roles import check_tokenizer
from ciyuan.interop.tensors import write_tensors
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer, chat


def save_model_folder(
    folder: str | Path, model: Transformer, tokenizer: Tokenizer, info: Mapping[str, Any], card: str
) -> None:
    """Write a model so that any tool for Hugging Face folders loads it; each file is whole or as it was before.

    info: what only we need, JSON values, for ciyuan.json; of a classifier, "labels", the names in their order, and "multi_label"
    are everybody's, and so are `ends.ENDS`. card: README.md. Training-time forms of the model are folded.
    Raises ModelFolderError where no family holds the model, TokenizerError where the tokeniser is another model's, DiskError.
    """
    check_tokenizer(tokenizer, model.config, where=folder)
    labels, multi_label = info.get("labels"), bool(info.get("multi_label", False))
    settings, tensors = to_hugging_face(model, labels=labels, multi_label=multi_label)
    dtype = next(iter(tensors.values())).dtype
    own = {name: value for name, value in info.items() if name != ENDS} | {
        "format": 1,
        "tokenizer": tokenizer.fingerprint,
    }
    if ENDS in info:
        settings["eos_token_id"] = info[ENDS].get(MODEL, settings["eos_token_id"])
    folder = Path(folder)
    with saying_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "config.json": _json(settings | {"dtype": str(dtype).removeprefix("torch.")}),
            **tokenizer_files(tokenizer, model.config),
            INFO: _json(own),
            "README.md": card,
        }
        if model.config.family != "encoder" and model.config.head == "language-model":
            writing = generation_settings(model.config, stops=stop_ids(info))
            if (ends := written_ends(info)) is not None:
                writing["eos_token_id"] = ends
            elif info.get("task") == "chat":  # a turn ends before the text does
                writing["eos_token_id"] = [model.config.eos_id, chat.end_id(tokenizer)]
            texts["generation_config.json"] = _json(writing)
        write_files(folder, texts, {WEIGHTS: tensors})


def write_files(folder: Path, texts: Mapping[str, str], weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Text files, then files of tensors, into a folder that may be new; each is whole or as it was before. Raises DiskError."""
    with saying_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _write(folder, name, lambda path, text=text: path.write_bytes(text.encode()))  # type: ignore[misc]
        for name, tensors in weights.items():
            _write(folder, name, lambda path, tensors=tensors: _save_tensors(tensors, path))  # type: ignore[misc]
        _sync(folder)


def to_hugging_face(
    model: Transformer, *, labels: Sequence[str] | None = None, multi_label: bool = False
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The config.json and the tensors of the model, in the form of the family that holds it. labels: a classifier's, in order."""
    family = family_of(model.config)
    with torch.random.fork_rng(devices=[]):  # a folded model is built anew, and training goes on drawing as before
        plain = family.fold(model)
    tensors = family.table(plain.config).to_theirs(plain.state_dict())
    settings = family.settings(plain.config, labels=labels, multi_label=multi_label)
    return settings, {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}


def generation_settings(config: ModelConfig, *, stops: Sequence[int] = ()) -> dict[str, object]:
    """The generation_config.json: what transformers' generate does unless told otherwise, and as our own decoding does.

    PAD, BOS and the start token are never written, unless they are among `stops`: the tokens beside EOS that end a text. An
    encoder–decoder searches with beam 4; a decoder is greedy.
    """
    both = config.family == "encoder-decoder"
    start, first = (config.decoder_start, config.first_id) if both else (None, None)
    ids = {config.pad_id, config.bos_id, start} - {None, config.eos_id, *stops}
    settings: dict[str, object] = {
        "pad_token_id": config.pad_id, "bos_token_id": config.bos_id, "eos_token_id": config.eos_id,
        "decoder_start_token_id": start, "forced_bos_token_id": first,
        "bad_words_ids": [[token] for token in sorted(cast(set[int], ids))],
        "max_length": config.max_positions, "num_beams": 4 if both else 1, "do_sample": None if both else False,
    }  # fmt: skip
    return {name: value for name, value in settings.items() if value not in (None, [])}


def tokenizer_files(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, str]:
    """The tokeniser's files, with what only the model knows: the side to pad on, the inputs it takes, and its longest text."""
    files = tokenizer.files()
    if config.family == "encoder-decoder":
        return files
    settings = json.loads(files["tokenizer_config.json"])
    if config.family == "decoder" and config.head == "language-model":
        settings["padding_side"] = "left"  # generate goes on from the last column
    if config.n_token_types > 1:
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    settings["model_max_length"] = config.max_positions
    return files | {"tokenizer_config.json": _json(settings)}


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    with path.open("wb") as file:
        write_tensors(file, tensors, {"format": "pt", FINGERPRINT: fingerprint(tensors)})


def _write(folder: Path, name: str, fill: Callable[[Path], object]) -> None:
    """A file that takes its name only when it is complete and on the disk."""
    number, draft = tempfile.mkstemp(prefix=f"tmp-{name}-", dir=folder)
    os.close(number)
    path = Path(draft)
    try:
        fill(path)
        path.chmod(0o644)
        _sync(path)
        path.replace(folder / name)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
