"""From a model to words: greedy and beam search, and translation of texts of any length."""

from ciyuan.generation.decoding import Hypothesis
from ciyuan.generation.search import beam_search, greedy_search
from ciyuan.generation.settings import DecodingSettings
from ciyuan.generation.translation import Translation, translate, translate_stream

__all__ = [
    "DecodingSettings",
    "Hypothesis",
    "Translation",
    "beam_search",
    "greedy_search",
    "translate",
    "translate_stream",
]
