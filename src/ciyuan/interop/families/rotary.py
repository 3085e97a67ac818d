"""The settings of plain rotary positions, which each release of transformers spells otherwise."""

from __future__ import annotations

from ciyuan.interop.settings import TheirSettings

MOST = 1e12


def read_base(theirs: TheirSettings, default: float) -> float:
    """rope_parameters since release 5, rope_theta before. Scaled kinds (rope_scaling, yarn …) are refused by name."""
    theirs.must("rope_scaling", None)
    theirs.must("partial_rotary_factor", 1.0)
    base = theirs.number("rope_theta", default, low=1.0, high=MOST)
    section = theirs.section("rope_parameters")
    if section is not None:
        base = section_base(section, base)
        theirs.must("rope_theta", base)
    return base


def section_base(section: TheirSettings, default: float) -> float:
    """The base in one set of rope_parameters."""
    section.must("rope_type", "default")
    section.must("type", "default")
    section.must("partial_rotary_factor", 1.0)
    base = section.number("rope_theta", default, low=1.0, high=MOST)
    section.finish()
    return base


def write_base(base: float) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": base}
