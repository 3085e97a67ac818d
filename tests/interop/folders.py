"""Small saved models, for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from ciyuan.interop import save_model_folder
from ciyuan.model import ModelConfig, ModelSettings, Transformer, initialise
from ciyuan.text import BERT_TOKENS, Tokenizer, TokenizerSettings

TEXT = ["open the help menu", "click ok and close", "print the page", "打开帮助菜单", "单击确定"]

SEQ2SEQ = {
    "vaswani-2017": {"d_model": 16, "n_heads": 2, "d_ff": 24, "n_layers": 2, "n_decoder_layers": 1},
    "m2m100-2020": {"d_model": 16, "n_heads": 2, "d_ff": 24, "n_layers": 2, "n_decoder_layers": 1},
    "modern-seq2seq": {"d_model": 24, "n_heads": 2, "d_ff": 32, "n_layers": 2, "n_decoder_layers": 1},
}
ENCODERS = {
    "bert-2018": {"d_model": 24, "n_heads": 2, "d_ff": 32, "n_layers": 2},
    "modern-encoder": {"d_model": 24, "n_heads": 2, "d_ff": 32, "n_layers": 2},
}
DECODERS = {
    "gpt2-2019": {"d_model": 24, "n_heads": 2, "d_ff": 32, "n_layers": 2},
    "modern-decoder": {"d_model": 24, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_ff": 32, "n_layers": 2},
}
PRESETS: dict[str, dict[str, object]] = {**SEQ2SEQ, **ENCODERS, **DECODERS}  # type: ignore[dict-item]


def tokenizer(texts: list[str] | None = None) -> Tokenizer:
    return Tokenizer.train(texts or TEXT, TokenizerSettings(kind="characters", vocab_size=290))


def tokenizer_for(preset: str) -> Tokenizer:
    """With the special tokens of the preset's family."""
    if preset not in ENCODERS:
        return tokenizer()
    return Tokenizer.train(TEXT, TokenizerSettings(kind="characters", vocab_size=290), BERT_TOKENS, template="cls-sep")


def config(preset: str, tokens: Tokenizer, **changes: object) -> ModelConfig:
    settings = ModelSettings.model_validate({"preset": preset, **PRESETS[preset], **changes})
    bos_id, eos_id = (tokens.id_of(role) if tokens.has(role) else None for role in ("bos", "eos"))
    return settings.build(tokens.vocab_size, pad_id=tokens.pad_id, bos_id=bos_id, eos_id=eos_id)


def model(of: ModelConfig, *, seed: int = 0) -> Transformer:
    """Random, norms and biases too."""
    made = Transformer(of)
    initialise(made, scheme="xavier", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def saved(folder: Path, preset: str = "vaswani-2017") -> Path:
    tokens = tokenizer_for(preset)
    save_model_folder(
        folder,
        model(config(preset, tokens)),
        tokens,
        {"task": "translate", "source": "en", "target": "zh"},
        "# A card\n",
    )
    return folder
