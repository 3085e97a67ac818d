"""Text to tokens and back: tokenisers, special tokens by role, sentences."""

from ciyuan.text.settings import TokenizerSettings
from ciyuan.text.special import BERT_TOKENS, SpecialTokens
from ciyuan.text.tokenizer import Tokenizer

__all__ = ["BERT_TOKENS", "SpecialTokens", "Tokenizer", "TokenizerSettings"]
