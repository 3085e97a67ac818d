"""The settings of rotary positions, which each release of transformers spells otherwise: fields of a ModelConfig both ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families.windows import WHOLE, WINDOW
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import LinearScaling, Llama3Scaling, LongRopeScaling, ModelConfig, YarnScaling

LEAST, MOST = 1e-12, 1e12

Fields = dict[str, object]


def read_rope(theirs: TheirSettings, base: float, max_positions: int) -> Fields:
    """rope_parameters since release 5, rope_theta and rope_scaling before; the same for all layers.

    base: where none is named. A scaling that our definition does not compute is refused by name.
    """
    theirs.must("partial_rotary_factor", 1.0)
    fields = _read_either(theirs, "rope_theta", base, max_positions, newer=theirs.section("rope_parameters"))
    return fields | {"window_rope_base": None}


def read_ropes(theirs: TheirSettings, keys: tuple[str, str], bases: tuple[float, float], max_positions: int) -> Fields:
    """The same where layers with a window have a base of their own, and are not scaled.

    keys: what release 4 calls the base of layers that see the whole text, and that of the others. bases: where none is named.
    """
    by_kind = theirs.section("rope_parameters")
    whole = None if by_kind is None else by_kind.section(WHOLE)
    window = None if by_kind is None else by_kind.section(WINDOW)
    if by_kind is not None:
        by_kind.finish()
    if whole is not None:
        whole.must("truncate", True)  # release 5 looks for it in another place
    fields = _read_either(theirs, keys[0], bases[0], max_positions, newer=whole)
    own: object = theirs.number(keys[1], bases[1], low=1.0, high=MOST)
    if window is not None:
        own = _read(window, bases[1], max_positions, kinds=["default"])["rope_base"]
        theirs.must(keys[1], own)
    return fields | {"window_rope_base": own}


def _read_either(
    theirs: TheirSettings, base_key: str, base: float, max_positions: int, *, newer: TheirSettings | None
) -> Fields:
    """What release 4 says beside base_key, or what release 5 says; where both do, they must agree."""
    base = theirs.number(base_key, base, low=1.0, high=MOST)
    older = theirs.section("rope_scaling")
    found = [_read(section, base, max_positions) for section in (older, newer) if section is not None]
    if len(found) > 1 and found[0] != found[1]:
        raise ModelFolderError("rope_scaling and rope_parameters are not the same", where=theirs.where)
    fields: Fields = found[0] if found else {"rope_base": base, "rope_scaling": None}
    theirs.must(base_key, fields["rope_base"])
    scaling = fields["rope_scaling"]
    if isinstance(scaling, dict) and "original_positions" in scaling:
        theirs.must("original_max_position_embeddings", scaling["original_positions"])
    return fields


def _read(section: TheirSettings, base: float, max_positions: int, *, kinds: Collection[str] | None = None) -> Fields:
    """One set of rope_parameters, whose rope_type was once called type."""
    names = {name: name for name in kinds or SCALINGS}
    kind = section.choice("rope_type" if section.has("rope_type") else "type", names, "default")
    section.must("type", kind)
    section.ignore("rope_type")
    section.must("partial_rotary_factor", 1.0)
    fields: Fields = {
        "rope_base": section.number("rope_theta", base, low=1.0, high=MOST),
        "rope_scaling": SCALINGS[kind](section, max_positions),
    }
    section.finish()
    return fields


def _linear(section: TheirSettings, max_positions: int) -> Fields:
    return {"kind": "linear", "factor": _needed(section, "factor")}


def _llama3(section: TheirSettings, max_positions: int) -> Fields:
    return {
        "kind": "llama3",
        "factor": _needed(section, "factor"),
        "low": _needed(section, "low_freq_factor"),
        "high": _needed(section, "high_freq_factor"),
        "original_positions": section.whole("original_max_position_embeddings", max_positions),
    }


def _yarn(section: TheirSettings, max_positions: int) -> Fields:
    factor = _needed(section, "factor")
    longer = section.optional_number("attention_factor", low=LEAST, high=MOST)
    above, below = (section.optional_number(name, high=MOST) for name in ("mscale", "mscale_all_dim"))
    if longer is None and above and below:
        longer = _mscale(factor, above) / _mscale(factor, below)
    return {
        "kind": "yarn",
        "factor": factor,
        "slow": section.optional_number("beta_slow", high=MOST) or 1.0,
        "fast": section.optional_number("beta_fast", high=MOST) or 32.0,
        "original_positions": section.whole("original_max_position_embeddings", max_positions),
        "attention_factor": longer,
        "whole_features": section.flag("truncate", True),
    }


def _longrope(section: TheirSettings, max_positions: int) -> Fields:
    """Of two sets of factors, theirs takes the first while the longest text of a batch is no longer than the original positions."""
    original = section.whole("original_max_position_embeddings", max_positions, low=2)
    short, long = (section.factors(name, low=LEAST, high=MOST) for name in ("short_factor", "long_factor"))
    factor = section.optional_number("factor", max_positions / original, low=LEAST, high=MOST)
    factor = max_positions / original if factor is None else factor
    if short != long and max_positions > original:
        raise ModelFolderError(
            "rope_type is longrope: which of its two sets of factors counts depends on the longest text of a batch",
            where=section.where, allowed="a text's positions that depend on itself alone",
            fix=f"to use short_factor alone, set max_position_embeddings to {original}, and factor to {factor:g} beside it",
        )  # fmt: skip
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        "kind": "longrope",
        "factors": tuple(short),
        "attention_factor": section.optional_number("attention_factor", low=LEAST, high=MOST) or usual,
        "original_positions": original,
    }


def _dynamic(section: TheirSettings, max_positions: int) -> Fields:
    raise ModelFolderError(
        "rope_type is dynamic: its angles depend on the longest text of a batch", where=section.where,
        allowed="a text's positions that depend on itself alone",
        fix=f"remove it: up to the {max_positions} tokens of max_position_embeddings it changes nothing",
    )  # fmt: skip


SCALINGS: Mapping[str, Callable[[TheirSettings, int], Fields | None]] = {
    "default": lambda section, max_positions: None,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "dynamic": _dynamic,
}


def _needed(section: TheirSettings, name: str) -> float:
    return section.number(name, math.nan, low=LEAST, high=MOST)


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(max(factor, 1.0)) + 1.0


def write_rope(config: ModelConfig) -> Fields:
    """Both as release 5 says it and, for older releases and other tools, as release 4 does."""
    return {
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base, **_scaling(config)},
        "rope_theta": config.rope_base,
        **write_scaling(config),
    }


def write_scaling(config: ModelConfig) -> Fields:
    """As release 4 says it."""
    scaling = _scaling(config)
    return {"rope_scaling": scaling} if scaling else {}


def write_ropes(config: ModelConfig, keys: tuple[str, str]) -> Fields:
    """The same, where layers with a window may have a base of their own; but not release 4's scaling, which may mean all layers."""
    own = config.rope_base if config.window_rope_base is None else config.window_rope_base
    return {
        "rope_parameters": {
            WHOLE: {"rope_type": "default", "rope_theta": config.rope_base, **_scaling(config)},
            WINDOW: {"rope_type": "default", "rope_theta": own},
        },
        keys[0]: config.rope_base,
        keys[1]: own,
    }


def _scaling(config: ModelConfig) -> Fields:
    match config.rope_scaling:
        case None:
            return {}
        case LinearScaling(factor=factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Scaling() as scaling:
            return {
                "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high, "original_max_position_embeddings": scaling.original_positions,
            }  # fmt: skip
        case LongRopeScaling() as scaling:
            factors = list(scaling.factors)
            return {
                "rope_type": "longrope", "short_factor": factors, "long_factor": factors,
                "attention_factor": scaling.attention_factor, "original_max_position_embeddings": scaling.original_positions,
            }  # fmt: skip
        case YarnScaling() as scaling:
            fields: Fields = {
                "rope_type": "yarn", "factor": scaling.factor, "beta_slow": scaling.slow, "beta_fast": scaling.fast,
                "original_max_position_embeddings": scaling.original_positions,
            }  # fmt: skip
            fields |= {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
            return fields | ({} if scaling.whole_features else {"truncate": False})
