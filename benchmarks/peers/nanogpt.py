"""The peer: nanoGPT's network and training, written anew from its published settings in plain PyTorch. Imports nothing of ciyuan.

    python benchmarks/peers/nanogpt.py --train T.txt --dev D.txt --lr 1e-3 --seed 1

Its README's setting for a CPU: characters, rows of 64, 12 of them a step, 4 layers, 4 heads, 128 wide, 2,000 steps, no
dropout, no compiling; and from its configuration for Shakespeare's characters: AdamW (0.9, 0.99) with decay 0.1 on matrices,
rate 1e-3, a warm-up of 100 steps, then half a cosine to a tenth of the rate, gradients clipped at 1.0. The network is GPT-2's
without biases: norms first, learned positions, GELU, the head tied to the embedding, N(0, 0.02²), residual outputs divided by
√(2 · layers). As there, the vocabulary is that of all the text, and rows are drawn from anywhere in what is trained on.

Prints one JSON object. The clock counts training alone. Scored is the whole held-out text, in rows of 64 that overlap by
half, so that each character is asked for once and, but for the first row, with half a row or more before it. The first
character is context.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trainer import keep_large_buffers

WARMUP, FLOOR = 100, 0.1
"""In steps; and what is left of the rate at the end."""


def main() -> int:
    settings = parse()
    torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(settings.seed)
    texts = [path.read_text(encoding="utf-8") for path in (settings.train, settings.dev)]
    numbers = {character: i for i, character in enumerate(sorted(set("".join(texts))))}
    learnt, held_out = (torch.tensor([numbers[character] for character in text]) for text in texts)
    model = GPT(len(numbers), settings)
    began = time.perf_counter()
    train(model, learnt, settings)
    seconds = time.perf_counter() - began
    nats = cost(model, held_out, settings.width)
    n_bytes = len(texts[1][1:].encode())
    row = {
        "seconds": round(seconds, 2), "steps": settings.steps, "params": sum(p.numel() for p in model.parameters()),
        "epochs": round(settings.steps * settings.batch * settings.width / len(learnt), 2),
        "scores": {"bits_per_byte": nats / math.log(2) / n_bytes, "nll": nats / (len(held_out) - 1)},
    }  # fmt: skip
    sys.stdout.write(json.dumps(row) + "\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--train", type=Path, required=True)
    add("--dev", type=Path, required=True)
    add("--lr", type=float, default=1e-3)
    add("--seed", type=int, default=1337)
    add("--threads", type=int, default=2)
    add("--steps", type=int, default=2000)
    add("--width", type=int, default=64)
    add("--batch", type=int, default=12)
    add("--d-model", type=int, default=128)
    add("--layers", type=int, default=4)
    add("--heads", type=int, default=4)
    return parser.parse_args()


class GPT(nn.Module):
    """Ids (B, T) to logits (B, T, V)."""

    def __init__(self, vocab_size: int, settings: argparse.Namespace) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, settings.d_model)
        self.positions = nn.Embedding(settings.width, settings.d_model)
        self.blocks = nn.ModuleList(Block(settings.d_model, settings.heads) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.d_model, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * settings.layers) ** 0.5 if residual else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


class Block(nn.Module):
    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.ff_norm = nn.LayerNorm(d_model, bias=False), nn.LayerNorm(d_model, bias=False)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model, bias=False), nn.Linear(d_model, d_model, bias=False)
        self.up, self.down = nn.Linear(d_model, 4 * d_model, bias=False), nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, width, d_model = x.shape
        parts = self.qkv(self.attention_norm(x)).view(rows, width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)  # (B, H, T, K)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, width, d_model))
        change: Tensor = self.down(F.gelu(self.up(self.ff_norm(x))))
        return x + change


def train(model: GPT, stream: Tensor, settings: argparse.Namespace) -> None:
    """stream: the ids of all that is learnt from."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=settings.lr, betas=(0.9, 0.99), fused=True,
    )  # fmt: skip
    model.train()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * rate(step, settings.steps)
        starts = torch.randint(len(stream) - settings.width, (settings.batch,)).tolist()
        rows = torch.stack([stream[start : start + settings.width + 1] for start in starts])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def rate(step: int, steps: int) -> float:
    """The share of the rate that applies to a step."""
    if step < WARMUP:
        return (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))


@torch.inference_mode()
def cost(model: GPT, stream: Tensor, width: int) -> float:
    """Nats of all ids but the first."""
    model.eval()
    total, scored, n = 0.0, 0, len(stream) - 1
    while scored < n:
        end = min(n, width if not scored else scored + width // 2)
        start = max(0, end - width)
        logits = model(stream[None, start:end])[0, scored - start :].double()
        total += F.cross_entropy(logits, stream[scored + 1 : end + 1], reduction="sum").item()
        scored = end
    return total


if __name__ == "__main__":
    keep_large_buffers()
    sys.exit(main())
