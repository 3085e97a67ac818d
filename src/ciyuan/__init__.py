"""ciyuan (词元): Transformer language models trained on your own text, and put to use."""

__version__ = "0.1.0"
