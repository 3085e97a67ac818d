"""A model folder is a Hugging Face folder: written so that `transformers` loads it, read without trusting a byte of it.

config.json · model.safetensors · tokenizer.json · tokenizer_config.json · generation_config.json · README.md: everybody's
ciyuan.json: what is ours alone
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ciyuan.data.folders import saying_disk_errors
from ciyuan.errors import ModelFolderError, TokenizerError, UserError, did_you_mean
from ciyuan.interop.families import FAMILIES, Family
from ciyuan.interop.family import canonical
from ciyuan.interop.folder import (
    FINGERPRINT,
    FLOATS,
    WEIGHTS,
    Folder,
    Weights,
    fingerprint,
)
from ciyuan.interop.labels import read_labels, read_multi_label
from ciyuan.interop.mapping import Table, listed, shown_name
from ciyuan.interop.settings import CODE, TheirSettings
from ciyuan.interop.tensors import write_tensors
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer, chat
from ciyuan.text.files import GET_AGAIN

INFO = "ciyuan.json"
ONE_MODEL = "config.json and the weights must be of one model"
LARGEST_SINES = 2**24
"""Numbers in a table of sinusoidal positions, the one thing allocated that no file backs."""


@dataclass(frozen=True)
class Loaded:
    """What a model folder holds. info: its ciyuan.json, and of a classifier its "labels" and "multi_label" in any case.

    origin: its class, as its own tool calls it. notes: what was read otherwise than it is written, for whoever imports it.
    """

    model: Transformer
    tokenizer: Tokenizer
    info: dict[str, Any]
    origin: str = ""
    notes: tuple[str, ...] = ()


# --- Out ---------------------------------------------------------------------------------------------------------------


def save_model_folder(
    folder: str | Path, model: Transformer, tokenizer: Tokenizer, info: Mapping[str, Any], card: str
) -> None:
    """Write a model so that any tool for Hugging Face folders loads it; each file is whole or as it was before.

    info: what only we need, JSON values, for ciyuan.json; of a classifier, "labels", the names in their order, and "multi_label"
    are everybody's. card: README.md. Training-time forms of the model are folded.
    Raises ModelFolderError where no family holds the model, TokenizerError where the tokeniser is another model's, DiskError.
    """
    check_tokenizer(tokenizer, model.config, where=folder)
    labels, multi_label = info.get("labels"), bool(info.get("multi_label", False))
    settings, tensors = to_hugging_face(model, labels=labels, multi_label=multi_label)
    dtype = next(iter(tensors.values())).dtype
    own = dict(info) | {"format": 1, "tokenizer": tokenizer.fingerprint}
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
            writing = generation_settings(model.config)
            if info.get("task") == "chat":  # a turn ends before the text does
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


def family_of(config: ModelConfig) -> Family:
    """The Hugging Face family that holds such a model. Raises ModelFolderError, naming what does not fit the nearest one.

    Worth asking before training: a model that no family holds cannot be saved.
    """
    misfits = {name: family.misfits(config) for name, family in FAMILIES.items()}
    wanted = canonical(config)
    nearest = min(
        misfits,
        key=lambda name: (
            bool(misfits[name]),
            FAMILIES[name].kind != config.family,
            sum(wanted.get(key) != value for key, value in FAMILIES[name].fixed.items()),
        ),
    )
    if misfits[nearest]:
        classes = [name for family in FAMILIES.values() if family.kind == config.family for name in family.classes]
        raise ModelFolderError(
            f"no Hugging Face class holds this model; {FAMILIES[nearest].class_of(config)} comes nearest, but for "
            + ", ".join(misfits[nearest][:4]),
            allowed=f"classes: {', '.join(classes)}",
            fix="start from a preset, and change sizes only",
        )
    return FAMILIES[nearest]


def with_head(
    config: ModelConfig, head: str, *, n_labels: int = 0, next_sentence: bool = False, where: object = None
) -> ModelConfig:
    """The same stacks with another head, and with what a class of their family has around it: BERT's pooler, for instance.

    head: "language-model", "classification", "span" or "none". next_sentence: with that head beside the language-model head.
    Raises ModelFolderError where no class has such stacks and such a head.
    """
    kin = [family for family in FAMILIES.values() if family.kind == config.family]
    nearly: list[ModelConfig] = []
    for family in kin:
        for fields in family.classes.values():
            if fields["head"] == head and fields["next_sentence"] == next_sentence:
                changed = ModelConfig.of({**config.model_dump(), **fields, "n_labels": n_labels})
                if not family.misfits(changed):
                    return changed
                nearly.append(changed)
    for changed in nearly:
        family_of(changed)  # there are such heads, and what keeps these stacks from one is said
    asked = f"{head} head" + (" with one for the next sentence" if next_sentence else "")
    raise ModelFolderError(
        f"no Hugging Face class is a {config.family} with a {asked}", where=where,
        allowed=f"classes: {', '.join(name for family in kin for name in family.classes)}",
    )  # fmt: skip


def generation_settings(config: ModelConfig) -> dict[str, object]:
    """The generation_config.json: what transformers' generate does unless told otherwise, and as our own decoding does.

    PAD, BOS and the start token are never written. An encoder–decoder searches with beam 4; a decoder is greedy.
    """
    both = config.family == "encoder-decoder"
    start, first = (config.decoder_start, config.first_id) if both else (None, None)
    ids = {config.pad_id, config.bos_id, start} - {None, config.eos_id}
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


# --- In ----------------------------------------------------------------------------------------------------------------


def load_model_folder(folder: str | Path | Folder) -> Loaded:
    """The model, tokeniser and ciyuan.json of a folder of ours, or of a plain Hugging Face one of a known family.

    Nothing is downloaded, no code is run, no pickle is read, nothing outside the folder is opened.
    Raises ModelFolderError where the folder is missing, incomplete, damaged, or asks for what our definition does not compute.
    """
    files = folder if isinstance(folder, Folder) else Folder(folder)
    own = files.read_json(INFO)
    described = _read_config(files)  # the cheap refusals first
    tokenizer = _load_tokenizer(files, own or {})
    tokenizer, config, notes = _agreed(tokenizer, described, ours=own is not None)
    check_tokenizer(tokenizer, config, where=files.path)
    own = own or {}
    if config.head == "classification":
        own = {**_labels(described), **own}
        if own["labels"] != (theirs := _labels(described)["labels"]):
            raise ModelFolderError(
                f"its labels are not those of config.json, {listed(theirs)}", where=files.path / INFO,
                fix="change both, or neither",
            )  # fmt: skip
    model, read = _load(files, described)
    model.config = model.config.model_copy(
        update={"pad_id": config.pad_id, "bos_id": config.bos_id, "eos_id": config.eos_id}
    )
    return Loaded(model, tokenizer, own, origin=f"{described.named} ({described.family.model_type})", notes=(*notes, *read))


def _agreed(tokenizer: Tokenizer, described: _Described, *, ours: bool) -> tuple[Tokenizer, ModelConfig, list[str]]:
    """Tokeniser and configuration with the same PAD, BOS and EOS, and what was changed for that.

    PAD is the tokeniser's where config.json names none; where the tokeniser has none either, rows are filled with EOS. In a
    decoder of another tool BOS has its role only where the tokeniser puts one before a text, and EOS is that of config.json,
    whatever the tokeniser calls so: both end a text, and the model is known to write the one.
    """
    config, notes = described.config, list[str]()
    special = tokenizer.special
    decoder = config.family == "decoder" and not ours
    if decoder and tokenizer.has("eos") and config.eos_id not in (None, tokenizer.eos_id):
        chosen = {tokenizer.id_of_token(text): text for text in special.spellings()}.get(config.eos_id)
        if chosen is not None:
            notes.append(f"EOS is {shown_name(chosen)}, by config.json; the tokeniser calls {shown_name(special.eos)} so")
            special = replace(special, eos=chosen, pad=None if special.pad == chosen else special.pad)
    if decoder and tokenizer.has("bos") and not tokenizer.begins_with_bos:
        notes.append(f"BOS, {shown_name(special.bos)}, has no role: the tokeniser puts none before a text")
        special = replace(special, bos=None)
    if special != tokenizer.special:
        without_role = set(tokenizer.special.spellings()) - set(special.spellings())
        extra = [text for text in special.extra if text not in special.by_role().values()]
        special = replace(special, extra=(*extra, *sorted(without_role)))
        tokenizer = Tokenizer(tokenizer.backend, special, chat_template=tokenizer.chat_template)
    changes: dict[str, int | None] = {}
    if not described.has_pad or (config.family == "decoder" and (decoder or not tokenizer.has("pad"))):
        changes["pad_id"] = tokenizer.pad_id
    if decoder:
        changes["bos_id"] = tokenizer.bos_id if tokenizer.has("bos") else None
        if config.eos_id is None and tokenizer.has("eos"):
            changes["eos_id"] = tokenizer.eos_id
    if not tokenizer.has("pad"):
        notes.append("no PAD of its own: rows are filled with EOS, and masked by position")
    return tokenizer, config.model_copy(update=changes), notes


def load_transformer(folder: str | Path) -> Transformer:
    """The model of a folder, without a tokeniser. Raises as `load_model_folder`."""
    files = Folder(folder)
    return _load(files, _read_config(files))[0]


def _load(files: Folder, described: _Described) -> tuple[Transformer, list[str]]:
    """The model, and what of the file it is not, or not in the same kind of numbers."""
    family = described.family
    with files.open_weights() as weights:
        config = _with_what_weights_say(described, weights)
        model = _empty_model(config, weights)
        table = family.table(config)
        weights.respell(table.older)
        expected = table.to_theirs(model.state_dict())
        _check_shapes(expected, table, weights)
        weights.verify()
        ours = table.to_ours(list(model.state_dict()), weights)
        model.load_state_dict({name: _alone(tensor) for name, tensor in ours.items()}, assign=True)
        assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())), "nothing is left unfilled"
        for each in table.generated:
            if each.theirs in weights:
                _check_generated(weights, each.theirs, each.value(model), each.tolerance)
        notes = _notes(weights, expected)
    return model.eval(), notes


def _notes(weights: Weights, expected: Collection[str]) -> list[str]:
    found = []
    unused = sorted(set(weights) - set(expected))
    if unused:
        found.append(f"tensors not used, since they follow from others or change nothing: {listed(unused)}")
    kinds = sorted({weights.kind(name) for name in expected} - {"F32"})
    if kinds:
        found.append(f"numbers stored as {' and '.join(kinds)} are kept as F32")
    return found


def _alone(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own, row by row: a part of a fused matrix would keep the whole alive, and cannot be saved."""
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


class Unfilled(TorchFunctionMode):
    """New parameters have a shape and no memory, and nothing is drawn for them; tables of sines are computed as ever.

    torch.device("meta") would do the first, but spends a second on imports as soon as it meets torch.arange.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in (torch.empty, torch.zeros):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _empty_model(config: ModelConfig, weights: Weights) -> Transformer:
    """The model of a configuration, its parameters still without memory."""
    n_layers = config.encoder_layers + config.decoder_layers
    if n_layers > len(weights):
        raise ModelFolderError(
            f"config.json has {n_layers:,} layers, and this {len(weights):,} tensors",
            where=weights.where,
            fix=ONE_MODEL,
        )
    try:
        with Unfilled():
            return Transformer(config)
    except RuntimeError as error:  # more numbers in one tensor than torch can count
        raise ModelFolderError(
            f"config.json's sizes make no model: {shown_name(error)}", where=weights.where, fix=ONE_MODEL
        ) from None


@dataclass(frozen=True)
class _Described:
    """What config.json says. has_pad: it names a PAD token; where it does not, the tokeniser may."""

    config: ModelConfig
    family: Family
    named: str
    settings: Mapping[str, object]
    where: Path

    @property
    def has_pad(self) -> bool:
        return self.settings.get("pad_token_id") is not None


def _read_config(files: Folder) -> _Described:
    settings = files.read_json("config.json")
    if settings is None:
        raise ModelFolderError("there is no config.json", where=files.path, fix="name the folder of a finished model")
    where = files.path / "config.json"
    family, named = _class_named(settings, where)
    if family.kind == "encoder-decoder":
        first = (files.read_json("generation_config.json") or {}).get("forced_bos_token_id")
        settings |= {} if first is None else {"forced_bos_token_id": first}  # which transformers takes from there
    return _Described(_config(family, named, settings, where), family, named, settings, where)


def _class_named(settings: Mapping[str, object], where: object) -> tuple[Family, str]:
    name = settings.get("model_type")
    families = [family for family in FAMILIES.values() if family.model_type == name]
    if not families:
        TheirSettings(settings, where)  # code is the graver finding
        types = list(dict.fromkeys(family.model_type for family in FAMILIES.values()))
        raise ModelFolderError(
            f"model_type {shown_name(name)} is not known", where=where, allowed=f"known: {', '.join(types)}",
            fix=did_you_mean(str(name), types),
        )  # fmt: skip
    known = [each for family in families for each in family.classes]
    named = settings.get("architectures") or known[:1]
    found = [each for each in named if each in known] if isinstance(named, list) else []
    if not found:
        raise ModelFolderError(
            f"the class {shown_name(named)} is not known", where=where, allowed=f"for {name}: {', '.join(known)}"
        )
    return next(family for family in families if found[0] in family.classes), found[0]


def _labels(described: _Described) -> dict[str, Any]:
    theirs = TheirSettings(described.settings, described.where)
    return {"labels": read_labels(theirs), "multi_label": read_multi_label(theirs)}


def _config(
    family: Family,
    named: str,
    settings: Mapping[str, object],
    where: object,
    *,
    untied: bool = False,
    lacking: Collection[str] = (),
) -> ModelConfig:
    theirs = TheirSettings(settings, where)
    try:
        config = family.config(theirs, untied=untied, lacking=lacking, named=named)
    except UserError as error:
        within = error.where if str(error.where).startswith(str(where)) else where  # a part of the file, perhaps
        raise ModelFolderError(error.found, where=within, allowed=error.allowed, fix=error.fix) from None
    ids = {
        "pad": config.pad_id, "bos": config.bos_id, "eos": config.eos_id, "decoder_start": config.start_id,
        "forced_bos": config.first_id,
    }  # fmt: skip
    for role, token in ids.items():
        if token is not None and token >= config.vocab_size:
            raise ModelFolderError(
                f"{role}_token_id is {token}, beyond the vocabulary of {config.vocab_size}", where=where
            )
    if config.positions == "sinusoidal" and config.max_positions * config.d_model > LARGEST_SINES:
        raise ModelFolderError(
            f"{config.max_positions:,} positions of width {config.d_model:,} are too many", where=where,
            allowed=f"at most {LARGEST_SINES:,} numbers",
        )  # fmt: skip
    return config


def _with_what_weights_say(described: _Described, weights: Weights) -> ModelConfig:
    """The configuration: whether the head is a matrix of its own, and which parts there are, some families leave to the weights."""
    family = described.family
    untied = _is_untied(family, weights)
    lacking = [
        part for part, tensor in family.parts.items() if not any(f".{name}".endswith(f".{tensor}") for name in weights)
    ]
    if not untied and not lacking:
        return described.config
    return _config(family, described.named, described.settings, described.where, untied=untied, lacking=lacking)


def _is_untied(family: Family, weights: Weights) -> bool:
    head, tied_to = "lm_head.weight", family.tied_to
    if tied_to is None or head not in weights or tied_to not in weights:
        return False
    return weights.shape(head) != weights.shape(tied_to) or not torch.equal(weights[head], weights[tied_to])


def _check_shapes(expected: Mapping[str, Tensor], table: Table, weights: Weights) -> None:
    """Every tensor is there, none too many, each of the shape that config.json implies; before anything is allocated."""
    table.check(expected, weights, weights.where)
    for name, tensor in expected.items():
        if weights.shape(name) != tuple(tensor.shape):
            raise ModelFolderError(
                f"{shown_name(name)} is of shape {weights.shape(name)}, and config.json implies {tuple(tensor.shape)}",
                where=weights.where,
                fix=ONE_MODEL,
            )
        if weights.kind(name) not in FLOATS:
            raise ModelFolderError(
                f"{shown_name(name)} is of kind {weights.kind(name)}",
                where=weights.where,
                allowed=f"kinds: {', '.join(FLOATS)}",
            )


def _check_generated(weights: Weights, name: str, wanted: Tensor, tolerance: float) -> None:
    same = weights.shape(name) == tuple(wanted.shape)
    if same:
        found = weights[name]
        same = torch.equal(found, wanted) if tolerance == 0 else bool(((found - wanted).abs() <= tolerance).all())
    if not same:
        raise ModelFolderError(
            f"{shown_name(name)} is not what follows from the model", where=weights.where,
            allowed="our definition computes it, and has no place for another",
        )  # fmt: skip


def _load_tokenizer(files: Folder, own: Mapping[str, Any]) -> Tokenizer:
    theirs = files.read_json("tokenizer_config.json") or {}
    TheirSettings({name: theirs.get(name) for name in CODE}, files.path / "tokenizer_config.json")
    try:
        tokenizer = Tokenizer.from_files(files)
    except TokenizerError as error:
        where = files.path if error.where is None else error.where
        raise ModelFolderError(
            f"the tokeniser cannot be used: {error.found}", where=where, allowed=error.allowed, fix=error.fix or GET_AGAIN
        ) from None
    if own.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise ModelFolderError(
            "tokenizer.json is a tokeniser of another model", where=files.path,
            fix="put the one back that the model was trained with",
        )  # fmt: skip
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, config: ModelConfig, *, where: object) -> None:
    """A tokeniser's ids must be rows of the model's vocabulary, and its special tokens the model's."""
    found = ""
    n_rows = max(tokenizer.backend.get_vocab().values(), default=-1) + 1
    if n_rows > config.vocab_size:
        found = f"{n_rows:,} tokens for a vocabulary of {config.vocab_size:,}"
    elif tokenizer.has("pad") and tokenizer.pad_id != config.pad_id:
        found = f"its PAD is {tokenizer.pad_id}, the model's {config.pad_id}"
    elif tokenizer.has("eos") and config.eos_id not in (None, tokenizer.eos_id):
        found = f"its EOS is {tokenizer.eos_id}, the model's {config.eos_id}"
    if found:
        raise ModelFolderError(
            f"this is a tokeniser of another model: {found}", where=where,
            fix="put the one back that the model was trained with",
        )  # fmt: skip
