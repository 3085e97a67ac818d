"""How the parameters begin. Every draw comes from one explicit generator, in the order of `named_parameters`."""

from __future__ import annotations

import torch
from torch import nn

from ciyuan.model.config import Initialisation
from ciyuan.model.transformer import Transformer

_RESIDUAL_OUTPUTS = ("attention.sublayer.out.weight", "cross.sublayer.out.weight", "feed_forward.sublayer.down.weight")


@torch.no_grad()
def initialise(model: Transformer, *, scheme: Initialisation, seed: int) -> None:
    """Fill every parameter in place; norms begin at one, their offset included, biases at zero.

    "xavier": matrices by Glorot and Bengio 2010 (uniform), as in Vaswani et al. 2017's code.
    "normal": N(0, 0.02²), residual outputs divided by √(2 · layers), as in GPT-2 (Radford et al. 2019).
    "zero_output": matrices uniform with variance 1/D, residual outputs and an untied head zero, so that every block begins as the
    identity (Zhang et al. 2019, Fixup; and nanochat).
    Embeddings are N(0, 1/scale²) for the model's embedding_scale, so that the first block reads unit variance; 0.02 where the
    table is tied and not scaled, and in "normal".
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    depth = max(config.encoder_layers, config.decoder_layers, 1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            is_norm = name.endswith("weight") and "norm" in name
            parameter.fill_(1.0 - config.norm_offset if is_norm else 0.0)
        elif name.endswith("embedding.weight"):
            plain = scheme == "normal" or (config.tied and config.embedding_scale == 1.0)
            _normal(parameter, 0.02 if plain else 1.0 / config.embedding_scale, generator)
        elif name.endswith(("positions.table.weight", "token_types.weight")):
            _normal(parameter, 0.02, generator)
        elif scheme == "normal":
            residual = name.endswith(_RESIDUAL_OUTPUTS)
            _normal(parameter, 0.02 / (2 * depth) ** 0.5 if residual else 0.02, generator)
        elif scheme == "zero_output" and (name.endswith(_RESIDUAL_OUTPUTS) or name == "head.weight"):
            parameter.zero_()
        else:
            fan_out, fan_in = parameter.shape
            variance = 1.0 / config.d_model if scheme == "zero_output" else 2.0 / (fan_in + fan_out)
            bound = (3.0 * variance) ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)


def _normal(parameter: nn.Parameter, std: float, generator: torch.Generator) -> None:
    parameter.normal_(0.0, std, generator=generator)
