"""The families, by the model_type of their config.json: one file and one line each."""

from ciyuan.interop.families.bert import BERT
from ciyuan.interop.families.gpt2 import GPT2
from ciyuan.interop.families.m2m100 import M2M100
from ciyuan.interop.families.marian import MARIAN
from ciyuan.interop.families.modernbert import MODERNBERT
from ciyuan.interop.families.qwen3 import QWEN3
from ciyuan.interop.families.t5 import T5
from ciyuan.interop.family import Family

FAMILIES: dict[str, Family] = {
    "marian": MARIAN,
    "m2m_100": M2M100,
    "t5": T5,
    "bert": BERT,
    "modernbert": MODERNBERT,
    "gpt2": GPT2,
    "qwen3": QWEN3,
}

__all__ = ["FAMILIES", "Family"]
