"""Training-time forms of a model, written into its weights: the same function in the plain form that others load."""

from __future__ import annotations

from typing import Any

import torch

from ciyuan.model.attention import Attention
from ciyuan.model.transformer import Transformer, normalised


@torch.no_grad()
def fold(model: Transformer, *, attention_scale: float | None = None) -> Transformer:
    """An equal model with plain embeddings and, where attention_scale is given, scores multiplied by that and no other scale.

    Learning goes better with normalised embeddings and with scores scaled by 1/√d_head; T5 has neither: its table is as it is, and
    its scale of 1 means that W_Q holds the rest. Logits agree to float32 rounding. The model itself is left as it was; where there
    is nothing to fold, it is what comes back. Raises ValueError where a tied head would change with the embedding.
    """
    config, changes = model.config, dict[str, Any]()
    if config.normalised_embeddings:
        if config.tied:
            raise ValueError("normalised embeddings cannot be folded into a table that is the head too")
        changes["normalised_embeddings"] = False
    stacks = [stack for stack in (model.encoder, model.decoder) if stack is not None]
    attentions = [module for stack in stacks for module in stack.modules() if isinstance(module, Attention)]
    if attention_scale is not None and any(attention.scale != attention_scale for attention in attentions):
        if config.qk_norm:
            raise ValueError("a scale cannot be folded through the norm of queries")
        changes["attention_scale"] = attention_scale
    if not changes:
        return model
    folded = Transformer(config.model_copy(update=changes)).to(next(model.parameters()))
    folded.load_state_dict(model.state_dict())
    if "normalised_embeddings" in changes:
        for table in (folded.embedding, folded.source_embedding):
            if table is not None:
                table.weight.copy_(normalised(table.weight))
    if attention_scale is not None and "attention_scale" in changes:
        names = [name for name, module in model.named_modules() if isinstance(module, Attention)]
        for name in names:
            before, after = model.get_submodule(name), folded.get_submodule(name)
            assert isinstance(before, Attention)
            assert isinstance(after, Attention)
            for parameter in after.q.parameters():
                parameter.mul_(before.scale / attention_scale)
    return folded.train(model.training)
