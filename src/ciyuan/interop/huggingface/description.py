"""What config.json, and where it leaves that open the weights, say of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ciyuan.errors import ModelFolderError, UserError, did_you_mean
from ciyuan.interop.families import FAMILIES, Family
from ciyuan.interop.folder import Folder, Weights
from ciyuan.interop.labels import read_labels, read_multi_label
from ciyuan.interop.mapping import shown_name
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

LARGEST_SINES = 2**24
"""Numbers in a table of sinusoidal positions, the one thing allocated that no file backs."""


@dataclass(frozen=True)
class Described:
    """What config.json says. has_pad: it names a PAD token; where it does not, the tokeniser may."""

    config: ModelConfig
    family: Family
    named: str
    settings: Mapping[str, object]
    where: Path

    @property
    def has_pad(self) -> bool:
        return self.settings.get("pad_token_id") is not None


def read_config(files: Folder) -> Described:
    settings = files.read_json("config.json")
    if settings is None:
        raise ModelFolderError("there is no config.json", where=files.path, fix="name the folder of a finished model")
    where = files.path / "config.json"
    family, named = _class_named(settings, where)
    if family.kind == "encoder-decoder":
        first = (files.read_json("generation_config.json") or {}).get("forced_bos_token_id")
        settings |= {} if first is None else {"forced_bos_token_id": first}  # which transformers takes from there
    return Described(_config(family, named, settings, where), family, named, settings, where)


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


def read_described_labels(described: Described) -> dict[str, Any]:
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


def with_what_weights_say(described: Described, weights: Weights) -> ModelConfig:
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
