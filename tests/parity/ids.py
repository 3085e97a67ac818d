"""Batches of random ids and our logits of them; no transformers, so that quick tests can use them."""

from __future__ import annotations

import torch

from ciyuan.batch import Layout, Stream
from ciyuan.model import Transformer


def padded_batch(pad: int, *, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Source ids (B, S) and mask, padded at the right, and decoder ids (B, T)."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([11, 4, 1, 20])
    ids = torch.randint(4, vocab_size, (4, 20), generator=generator)
    mask = (torch.arange(20) < lengths[:, None]).long()
    return ids.masked_fill(mask == 0, pad), mask, torch.randint(4, vocab_size, (4, 15), generator=generator)


def our_logits(model: Transformer, ids: torch.Tensor, mask: torch.Tensor, decoder_ids: torch.Tensor) -> torch.Tensor:
    layout = Layout.of_mask(mask)
    with torch.no_grad():
        memory = model.encode(Stream(ids, layout))
        hidden = model.hidden(Stream(decoder_ids, Layout.whole(decoder_ids)), memory=memory, memory_layout=layout)
        return model.logits(hidden)
