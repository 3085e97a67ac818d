"""The families: one file and one line each. Of two that hold a model, the first writes it."""

from ciyuan.interop.families.bart import BART, MBART
from ciyuan.interop.families.bert import BERT
from ciyuan.interop.families.distilbert import DISTILBERT
from ciyuan.interop.families.gemma2 import GEMMA2
from ciyuan.interop.families.gemma3 import GEMMA3
from ciyuan.interop.families.gpt2 import GPT2
from ciyuan.interop.families.llama import LLAMA
from ciyuan.interop.families.m2m100 import M2M100
from ciyuan.interop.families.marian import MARIAN
from ciyuan.interop.families.mistral import MISTRAL
from ciyuan.interop.families.modernbert import MODERNBERT
from ciyuan.interop.families.mt5 import MT5
from ciyuan.interop.families.opt import OPT
from ciyuan.interop.families.qwen2 import QWEN2
from ciyuan.interop.families.qwen3 import QWEN3
from ciyuan.interop.families.roberta import ROBERTA, XLM_ROBERTA
from ciyuan.interop.families.t5 import T5, T5_ENCODER
from ciyuan.interop.family import Family

FAMILIES: dict[str, Family] = {
    "marian": MARIAN,
    "m2m_100": M2M100,
    "t5": T5,
    "mt5": MT5,
    "t5 encoder": T5_ENCODER,
    "bart": BART,
    "mbart": MBART,
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "distilbert": DISTILBERT,
    "modernbert": MODERNBERT,
    "gpt2": GPT2,
    "opt": OPT,
    "qwen3": QWEN3,
    "qwen2": QWEN2,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
}

__all__ = ["FAMILIES", "Family"]
