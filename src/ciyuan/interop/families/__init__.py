"""The families, by the model_type of their config.json: one file and one line each."""

from ciyuan.interop.families.m2m100 import M2M100
from ciyuan.interop.families.marian import MARIAN
from ciyuan.interop.families.t5 import T5
from ciyuan.interop.family import Family

FAMILIES: dict[str, Family] = {
    "marian": MARIAN,
    "m2m_100": M2M100,
    "t5": T5,
}

__all__ = ["FAMILIES", "Family"]
