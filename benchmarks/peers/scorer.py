"""The judge: any model folder, ours or the peer's, loaded by `transformers` and asked the same. Imports nothing of ciyuan.

    python benchmarks/peers/scorer.py language MODEL --text held-out.txt --width 256
    python benchmarks/peers/scorer.py masked MODEL --masks held-out.masks.jsonl

language: the whole text is read in rows of --width tokens that overlap by half, so that each token is asked for once and, but
for the first row, with half a row or more before it. Its cost is divided by the UTF-8 bytes of the text, which compares
between tokenisers. With a BOS the first token is asked for too; without one it is context, and neither its cost nor its bytes
count.
masked: rows {"input_ids": […], "labels": […]} of one tokeniser, where labels are −100 but at what is masked.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

ROWS = 16
"""That are read at once."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("language", "masked"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args()
    import torch

    torch.set_num_threads(settings.threads)
    with torch.inference_mode():
        found = language(settings) if settings.kind == "language" else masked(settings)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def language(settings: argparse.Namespace) -> dict[str, float]:
    """Nats per token and bits per byte of the text."""
    import torch
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(settings.model).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(settings.model)
    text = settings.text.read_text(encoding="utf-8")
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    ids, n_bytes = encoding.ids, len(text.encode())
    if tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) != text:
        sys.exit("the tokeniser does not give the text back, so its bytes were not all paid for")
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    else:
        n_bytes -= len(tokenizer.backend_tokenizer.decode(ids[:1], skip_special_tokens=False).encode())
    total = 0.0
    stream = torch.tensor(ids)
    for start, scored, end in windows(len(ids) - 1, settings.width, settings.width // 2):
        logits = model(input_ids=stream[None, start:end]).logits[0, scored - start :].double()
        total += F.cross_entropy(logits, stream[scored + 1 : end + 1], reduction="sum").item()
    return {
        "bits_per_byte": total / math.log(2) / n_bytes, "nll": total / (len(ids) - 1), "tokens": len(ids) - 1, "bytes": n_bytes,
    }  # fmt: skip


def windows(n: int, width: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, scored, end) of rows over n places: read from start to end, asked from scored to end; what is asked adjoins."""
    scored = 0
    while scored < n:
        end = min(n, width if not scored else scored + stride)
        yield max(0, end - width), scored, end
        scored = end


def masked(settings: argparse.Namespace) -> dict[str, float]:
    """How much of what is masked is the likeliest guess, in per cent, and nats per masked token."""
    import torch
    from torch.nn import functional as F
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(settings.model).eval()
    rows = [json.loads(line) for line in settings.masks.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: len(row["input_ids"]))
    nats, right, count = 0.0, 0, 0
    for at in range(0, len(rows), ROWS):
        some = rows[at : at + ROWS]
        width = max(len(row["input_ids"]) for row in some)
        ids, labels = (
            torch.tensor([[*row[name], *[filler] * (width - len(row[name]))] for row in some])
            for name, filler in (("input_ids", 0), ("labels", -100))
        )
        seen = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in some])
        asked = labels != -100
        logits, wanted = model(input_ids=ids, attention_mask=seen).logits[asked].double(), labels[asked]
        nats += F.cross_entropy(logits, wanted, reduction="sum").item()
        right += int((logits.argmax(dim=-1) == wanted).sum())
        count += len(wanted)
    return {"masked_accuracy": 100 * right / count, "nll": nats / count, "masked": count}


if __name__ == "__main__":
    sys.exit(main())
