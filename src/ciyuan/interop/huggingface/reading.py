"""Reading a model folder, ours or a plain Hugging Face one, without trusting a byte of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ciyuan.errors import ModelFolderError
from ciyuan.interop.ends import ENDS, read_ends, stop_ids
from ciyuan.interop.folder import FLOATS, INFO, Folder, Weights
from ciyuan.interop.huggingface.description import Described, read_config, read_described_labels, with_what_weights_say
from ciyuan.interop.huggingface.roles import agreed, check_tokenizer, read_tokenizer
from ciyuan.interop.mapping import Table, listed, shown_name
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer

ONE_MODEL = "config.json and the weights must be of one model"


@dataclass(frozen=True)
class Loaded:
    """What a model folder holds. info: its ciyuan.json; of a classifier its "labels" and "multi_label" in any case, and of a
    decoder `ends.ENDS`, where several tokens end its texts.

    origin: its class, as its own tool calls it. notes: what was read otherwise than it is written, for whoever imports it.
    """

    model: Transformer
    tokenizer: Tokenizer
    info: dict[str, Any]
    origin: str = ""
    notes: tuple[str, ...] = ()


def load_model_folder(folder: str | Path | Folder) -> Loaded:
    """The model, tokeniser and ciyuan.json of a folder of ours, or of a plain Hugging Face one of a known family.

    Nothing is downloaded, no code is run, no pickle is read, nothing outside the folder is opened.
    Raises ModelFolderError where the folder is missing, incomplete, damaged, or asks for what our definition does not compute.
    """
    files = folder if isinstance(folder, Folder) else Folder(folder)
    own = files.read_json(INFO)
    described = read_config(files)  # the cheap refusals first
    tokenizer = read_tokenizer(files, own or {})
    tokenizer, config, notes = agreed(tokenizer, described, ours=own is not None)
    check_tokenizer(tokenizer, config, where=files.path)
    info = dict(own or {})
    if config.head == "classification":
        info = _with_labels(info, described, where=files.path / INFO)
    info.pop(ENDS, None)
    if config.family == "decoder" and (ends := read_ends(files, config.vocab_size)):
        info[ENDS] = ends
        spelt = [tokenizer.backend.id_to_token(token) for token in stop_ids(info)]
        notes.append(f"a text ends with any of {listed([str(text) for text in spelt], 9)}")
    model, read = _load(files, described)
    model.config = model.config.model_copy(
        update={name: getattr(config, name) for name in ("pad_id", "bos_id", "eos_id", "source_head", "source_tail")}
    )
    origin = f"{described.named} ({described.family.model_type})"
    return Loaded(model, tokenizer, info, origin=origin, notes=(*notes, *read))


def _with_labels(info: Mapping[str, Any], described: Described, *, where: object) -> dict[str, Any]:
    """A classifier's labels are config.json's; ciyuan.json may repeat them."""
    theirs = read_described_labels(described)
    info = {**theirs, **info}
    if info["labels"] != theirs["labels"]:
        raise ModelFolderError(
            f"its labels are not those of config.json, {listed(theirs['labels'])}", where=where, fix="change both, or neither"
        )  # fmt: skip
    return info


def load_transformer(folder: str | Path) -> Transformer:
    """The model of a folder, without a tokeniser. Raises as `load_model_folder`."""
    files = Folder(folder)
    return _load(files, read_config(files))[0]


def _load(files: Folder, described: Described) -> tuple[Transformer, list[str]]:
    """The model, and what of the file it is not, or not in the same kind of numbers."""
    family = described.family
    with files.open_weights() as weights:
        config = with_what_weights_say(described, weights)
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
