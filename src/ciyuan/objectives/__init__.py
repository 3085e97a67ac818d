"""What the model is asked: an objective collates examples into a batch and scores the answers."""

from ciyuan.objectives.alignment import Lexicon
from ciyuan.objectives.causal_lm import CausalLM
from ciyuan.objectives.classification import Classification, balanced_weights
from ciyuan.objectives.denoising import Denoising
from ciyuan.objectives.masked_lm import MaskedLM
from ciyuan.objectives.next_sentence import Jointly, NextSentence
from ciyuan.objectives.objective import Objective
from ciyuan.objectives.prompted import Prompted
from ciyuan.objectives.question_answering import SpanAnswering
from ciyuan.objectives.seq2seq import Seq2Seq
from ciyuan.objectives.spans import best_span, windows
from ciyuan.objectives.warm_start import can_warm_start, warm_start

__all__ = [
    "CausalLM",
    "Classification",
    "Denoising",
    "Jointly",
    "Lexicon",
    "MaskedLM",
    "NextSentence",
    "Objective",
    "Prompted",
    "Seq2Seq",
    "SpanAnswering",
    "balanced_weights",
    "best_span",
    "can_warm_start",
    "warm_start",
    "windows",
]
