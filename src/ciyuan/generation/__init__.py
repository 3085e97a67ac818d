"""From a model to words: greedy and beam search, drawing, translation of texts of any length, and completion of prompts."""

from ciyuan.generation.completion import Generation, generate, generate_stream
from ciyuan.generation.decoding import Hypothesis
from ciyuan.generation.search import beam_search, greedy_search, sample_search
from ciyuan.generation.settings import DecodingSettings, GenerationSettings
from ciyuan.generation.translation import Translation, translate, translate_stream

__all__ = [
    "DecodingSettings",
    "Generation",
    "GenerationSettings",
    "Hypothesis",
    "Translation",
    "beam_search",
    "generate",
    "generate_stream",
    "greedy_search",
    "sample_search",
    "translate",
    "translate_stream",
]
