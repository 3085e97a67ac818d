"""The peer: `transformers`' MarianMTModel trained from scratch by a plain, competent loop. Imports nothing of ciyuan.

    python benchmarks/peers/marian.py --train T.tsv.xz --dev D.tsv --minutes 12 --score-at 6,12 --lr 1e-3 --seed 1

Prints one JSON object a line on stdout, one for each moment of scoring. What an expert would do is done: SDPA attention, fused
AdamW (0.9, 0.98), linear warm-up then inverse square root (which needs no end, so that one run can be scored on its way),
length-bucketed batches of an equal token budget, label smoothing 0.1, dropout 0.1, gradients clipped at 1.0, ignored padding,
a joint SentencePiece Unigram vocabulary with byte fallback, weights and embeddings drawn at d_model^-0.5, `generate` with a
key/value cache in length-sorted batches, and the C allocator told to keep its large buffers, as ciyuan does. The clock counts
training alone: not reading, not the tokeniser's training, not scoring.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import lzma
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Pair = tuple[str, str]
Ids = tuple[list[int], list[int]]

PAD, EOS, UNK = 0, 1, 2
IGNORED = -100
MAX_TOKENS = 256
"""Longer examples are left out, and counted."""


def main() -> None:
    settings = parse()
    if settings.allocator:
        keep_large_buffers()  # before torch allocates anything
    import torch

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    train, dev = read_pairs(settings.train), read_pairs(settings.dev)
    started = time.perf_counter()
    pieces = train_tokenizer(train, settings.vocab_size)
    examples = [pair for pair in encode(pieces, train) if max(map(len, pair)) <= MAX_TOKENS]
    held_out = encode(pieces, dev)
    preparation = time.perf_counter() - started

    encoder_layers, decoder_layers = choose_layers(settings)
    model = build(settings, encoder_layers, decoder_layers)
    n_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"{encoder_layers}+{decoder_layers} layers, {n_params:,} parameters; {len(examples)} of {len(train)} pairs")

    for moment in training(model, examples, settings):
        began = time.perf_counter()
        outputs = translate(model, pieces, [source for source, _ in held_out], settings)
        metrics, signatures = score(outputs, [target for _, target in dev], settings.target)
        row = moment | {
            "metrics": metrics | {"nats_per_token": cross_entropy(model, held_out)},
            "signatures": signatures,
            "params": n_params,
            "layers": [encoder_layers, decoder_layers],
            "left_out": len(train) - len(examples),
            "preparation_seconds": round(preparation, 1),
            "scoring_seconds": round(time.perf_counter() - began, 1),
            "samples": [[*dev[i], outputs[i][:200]] for i in range(min(5, len(dev)))],
        }
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--train", type=Path, required=True)
    add("--dev", type=Path, required=True)
    add("--target", default="zh", help="the language translated into, which decides how BLEU counts words")
    add("--minutes", type=float, default=12.0, help="of training")
    add("--score-at", default=None, help="minutes, separated by commas; the last is the end")
    add("--lr", type=float, default=1e-3)
    add("--warmup", type=int, default=100, help="steps")
    add("--batch-tokens", type=int, default=4096, help="rows × the wider of source and target, padding included")
    add("--vocab-size", type=int, default=8000)
    add("--d-model", type=int, default=256)
    add("--params", type=int, default=None, help="choose the numbers of layers to come nearest to this many parameters")
    add("--layers", type=int, nargs=2, default=(3, 3), help="encoder, decoder; not with --params")
    add("--init-std", type=float, default=None, help="default d_model^-0.5; the library's own is 0.02")
    add("--dropout", type=float, default=0.1)
    add("--label-smoothing", type=float, default=0.1)
    add("--beam", type=int, default=4)
    add("--length-penalty", type=float, default=1.0)
    add("--seed", type=int, default=1)
    add("--threads", type=int, default=2)
    add("--no-allocator", dest="allocator", action="store_false", help="leave the C allocator as it is")
    settings = parser.parse_args()
    points = settings.score_at or str(settings.minutes)
    settings.score_at = sorted(float(point) for point in points.split(","))
    return settings


def keep_large_buffers() -> None:
    """Tell glibc to reuse large buffers, not to give them back to the system after every use. Elsewhere, nothing."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def read_pairs(path: Path) -> list[Pair]:
    """Source, tab, target; a pair a line."""
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    return [(source, target) for source, target in rows]


def train_tokenizer(pairs: Sequence[Pair], vocab_size: int) -> Any:
    """A joint Unigram model. Identity normalisation: NFKC would turn Chinese punctuation into ASCII, and cost points."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for pair in pairs for text in pair]), model_writer=written, model_type="unigram",
        vocab_size=vocab_size, character_coverage=0.9995, byte_fallback=True, normalization_rule_name="identity",
        pad_id=PAD, eos_id=EOS, unk_id=UNK, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def encode(pieces: Any, pairs: Sequence[Pair]) -> list[Ids]:
    sources = pieces.encode([source for source, _ in pairs], add_eos=True)
    targets = pieces.encode([target for _, target in pairs], add_eos=True)
    return list(zip(sources, targets, strict=True))


def choose_layers(settings: argparse.Namespace) -> tuple[int, int]:
    """Numbers of encoder and decoder layers. With --params, those nearest to it, equal or with the deeper encoder."""
    if settings.params is None:
        return settings.layers[0], settings.layers[1]
    d = settings.d_model
    norm, attention, ff = 2 * d, 4 * (d * d + d), 8 * d * d + 5 * d
    encoder, decoder = attention + ff + 2 * norm, 2 * attention + ff + 3 * norm
    shapes = [(layers + deeper, layers) for layers in range(1, 13) for deeper in (0, 1, 2)]
    return min(
        shapes,
        key=lambda s: (abs(settings.vocab_size * d + s[0] * encoder + s[1] * decoder - settings.params), s[0] - s[1]),
    )


def build(settings: argparse.Namespace, encoder_layers: int, decoder_layers: int) -> Any:
    from transformers import MarianConfig, MarianMTModel

    fields: dict[str, Any] = dict(
        vocab_size=settings.vocab_size, d_model=settings.d_model,
        encoder_layers=encoder_layers, decoder_layers=decoder_layers,
        encoder_attention_heads=settings.d_model // 64, decoder_attention_heads=settings.d_model // 64,
        encoder_ffn_dim=4 * settings.d_model, decoder_ffn_dim=4 * settings.d_model,
        activation_function="relu", scale_embedding=True,
        share_encoder_decoder_embeddings=True, tie_word_embeddings=True, max_position_embeddings=512,
        init_std=settings.init_std or settings.d_model**-0.5,
        dropout=settings.dropout, attention_dropout=0.0, activation_dropout=0.0,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None, decoder_start_token_id=PAD, forced_eos_token_id=EOS,
    )  # fmt: skip
    model = MarianMTModel._from_config(MarianConfig(**fields), attn_implementation="sdpa")  # type: ignore[no-untyped-call]
    assert model.config._attn_implementation == "sdpa"
    return model


def training(model: Any, examples: Sequence[Ids], settings: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train, pausing the clock at each moment of --score-at. Yields what the loop knows at that moment."""
    import torch
    from torch.nn import functional as F

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.01, fused=True
    )
    moments = list(settings.score_at)
    spent, tokens = 0.0, 0
    losses: list[torch.Tensor] = []
    began = time.perf_counter()
    model.train()
    for step, (epoch, batch) in enumerate(endless(examples, settings.batch_tokens, settings.seed)):  # step: those done
        if spent + time.perf_counter() - began >= 60 * moments[0]:
            spent += time.perf_counter() - began
            recent = torch.stack(losses[-50:]).mean().item() if losses else None
            yield {
                "minutes": moments.pop(0), "seconds": round(spent, 2), "steps": step, "epochs": epoch,
                "tokens": tokens, "loss": recent,
            }  # fmt: skip
            if not moments:
                return
            model.train()
            began = time.perf_counter()
        source = pad([examples[i][0] for i in batch], PAD)
        target = pad([examples[i][1] for i in batch], PAD)
        start = torch.full((len(batch), 1), PAD)
        logits = model(
            input_ids=source, attention_mask=source != PAD, decoder_input_ids=torch.cat([start, target[:, :-1]], 1),
            use_cache=False,
        ).logits  # fmt: skip
        labels = target.masked_fill(target == PAD, IGNORED)
        loss = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=settings.label_smoothing
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min((step + 1) / settings.warmup, (settings.warmup / (step + 1)) ** 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        tokens += sum(len(examples[i][0]) + len(examples[i][1]) for i in batch)
        if step % 50 == 49:
            minutes = (spent + time.perf_counter() - began) / 60
            say(f"step {step + 1}, epoch {epoch}, {minutes:.2f} minutes, loss {torch.stack(losses[-50:]).mean():.3f}")


def endless(examples: Sequence[Ids], budget: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Batches of examples of like length, epoch after epoch: shuffled, sorted by length (stably), cut, shuffled again."""
    import numpy as np

    random = np.random.default_rng(seed)
    widths = np.array([[len(source), len(target)] for source, target in examples])
    epoch = 0
    while True:
        order = random.permutation(len(examples))
        order = order[np.lexsort((widths[order, 0], widths[order, 1]))]
        batches: list[list[int]] = [[]]
        width = 0
        for i in order.tolist():
            width = max(width, int(widths[i].max()))
            if batches[-1] and width * (len(batches[-1]) + 1) > budget:
                batches.append([])
                width = int(widths[i].max())
            batches[-1].append(i)
        for b in random.permutation(len(batches)):
            yield epoch, batches[b]
        epoch += 1


def pad(rows: Sequence[Sequence[int]], value: int) -> Any:
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def translate(model: Any, pieces: Any, sources: Sequence[list[int]], settings: argparse.Namespace) -> list[str]:
    """Beam search by `generate`, sentences of like length together, in the order they came."""
    import torch
    from transformers import GenerationConfig

    model.eval()
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    outputs = [""] * len(sources)
    for at in range(0, len(order), 32):
        rows = order[at : at + 32]
        source = pad([sources[i][:512] for i in rows], PAD)
        options: dict[str, Any] = dict(
            num_beams=settings.beam, length_penalty=settings.length_penalty, do_sample=False,
            max_new_tokens=min(MAX_TOKENS, 2 * source.shape[1] + 20), pad_token_id=PAD, eos_token_id=EOS,
            decoder_start_token_id=PAD, forced_eos_token_id=EOS, bad_words_ids=[[PAD]],
        )  # fmt: skip
        how = GenerationConfig(**options)  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            ids = model.generate(input_ids=source, attention_mask=source != PAD, generation_config=how)
        for i, row in zip(rows, ids.tolist(), strict=True):
            outputs[i] = pieces.decode([piece for piece in row if piece not in (PAD, EOS)])
    return outputs


def cross_entropy(model: Any, pairs: Sequence[Ids]) -> float:
    """Nats per target token, unsmoothed."""
    import torch
    from torch.nn import functional as F

    model.eval()
    total, count = 0.0, 0
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][1]))
    for at in range(0, len(order), 32):
        rows = [pairs[i] for i in order[at : at + 32]]
        source, target = pad([row[0][:512] for row in rows], PAD), pad([row[1][:511] for row in rows], PAD)
        start = torch.full((len(rows), 1), PAD)
        with torch.inference_mode():
            logits = model(
                input_ids=source, attention_mask=source != PAD, decoder_input_ids=torch.cat([start, target[:, :-1]], 1)
            ).logits
        total += F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="sum").item()
        count += int((target != PAD).sum())
    return total / count


def score(outputs: Sequence[str], references: Sequence[str], language: str) -> tuple[dict[str, float], dict[str, str]]:
    """chrF, and BLEU with the tokeniser for the language, each with its signature."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    metrics, signatures = {}, {}
    for name, metric in (("chrF", CHRF()), ("BLEU", BLEU(tokenize="zh" if language == "zh" else "13a"))):
        metrics[name] = metric.corpus_score(list(outputs), [list(references)]).score
        signatures[name] = str(metric.get_signature())
    return metrics, signatures


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
