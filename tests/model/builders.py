"""Small random models of every family, for tests."""

from __future__ import annotations

import torch

from ciyuan.batch import Layout, Stream
from ciyuan.model import ModelConfig, Transformer, initialise

VARIANTS: dict[str, dict[str, object]] = {
    "post-norm sinusoidal": {},
    "pre-norm sinusoidal tensor2tensor": {"norm_position": "pre", "sinusoid": "tensor2tensor", "position_offset": 1},
    "pre-norm rotary grouped q/k-norm gated": {
        "norm_position": "pre", "norm": "rms", "positions": "rotary", "n_kv_heads": 2, "qk_norm": True, "gated": True,
        "activation": "silu", "attention_bias": False, "ff_bias": False, "attention_out_bias": False,
    },
    "pre-norm relative no scaling": {
        "norm_position": "pre", "norm": "rms", "positions": "relative", "attention_scale": 1.0, "attention_bias": False,
        "gated": True, "activation": "gelu_tanh", "relative_buckets": 8, "relative_max_distance": 12,
    },
    "sandwich rotary window": {"norm_position": "sandwich", "norm": "rms", "positions": "rotary", "window": 4},
    "rotary windows here and there, soft caps, offset norms": {
        "norm_position": "sandwich", "norm": "rms", "norm_offset": 1.0, "positions": "rotary", "qk_norm": True, "n_kv_heads": 2,
        "window": 3, "windowed_layers": (0,), "window_rope_base": 20.0, "attention_soft_cap": 1.5, "logit_soft_cap": 3.0,
        "rope_scaling": {"kind": "yarn", "factor": 4.0, "original_positions": 8}, "gated": True, "activation": "gelu_tanh",
    },
    "relative windows here and there, norms without parameters": {
        "positions": "relative", "relative_buckets": 8, "relative_max_distance": 12, "window": 4, "windowed_layers": (1,),
        "norm_weight": False, "attention_out_bias": False,
    },
    "learned embedding-norm gelu": {"positions": "learned", "embedding_norm": True, "activation": "gelu"},
    "no positions relu2 untied": {"positions": "none", "activation": "relu2", "tied": False, "shared_embeddings": False},
}  # fmt: skip


def build(family: str, variant: str, *, seed: int = 0, **changes: object) -> Transformer:
    fields = {
        "family": family, "vocab_size": 23, "d_model": 16, "n_layers": 2, "n_decoder_layers": 2, "n_heads": 4, "d_ff": 24,
        "max_positions": 32, "dropout": 0.0, "pad_id": 0, "bos_id": 1, "eos_id": 2,
    }  # fmt: skip
    config = ModelConfig.model_validate({**fields, **VARIANTS[variant], **changes})
    model = Transformer(config)
    initialise(model, scheme="xavier", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def tokens(rows: int, width: int, *, seed: int = 0, vocab_size: int = 23) -> torch.Tensor:
    return torch.randint(3, vocab_size, (rows, width), generator=torch.Generator().manual_seed(seed))


def stream(ids: torch.Tensor, lengths: list[int] | None = None) -> Stream:
    if lengths is None:
        return Stream(ids, Layout.whole(ids))
    layout = Layout.of_lengths(lengths, ids.shape[1])
    return Stream(ids.masked_fill(~layout.is_text, 0), layout)
