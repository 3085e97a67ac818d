"""How fast `transformers`' Trainer trains: tokens per second of one network on one machine. Imports nothing of ciyuan.

    python benchmarks/peers/speed.py decoder --train T.txt --tokenizer DIR --seconds 20
    python benchmarks/peers/speed.py seq2seq --train T.tsv.xz --tokenizer DIR --seconds 30 --step-tokens 6000 --batches grouped

The networks are those of GPT-2, BERT and Marian, in fp32. --style default: the Trainer, the configurations and the collators
as they come, but for sizes, dropout and what is no work (no logging, saving or progress bar). --style tuned: GELU by its
fused form (the same function), the C allocator told to keep its large buffers, tiny numbers taken for zero, no look at each
loss for NaN. Both use fused AdamW, which is the Trainer's default.

--batches: of pairs, at random, padded to the longest (padded); of like length by the Trainer's own sampler (grouped); or of
like length within a budget of padded tokens (budget), which is what ciyuan does. Prints one JSON object: real tokens, padding
not counted, per second of wall-clock after the first --warm seconds.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer import BERT, GPT2, encode, keep_large_buffers

MAX_TOKENS = 256
"""Of a side; longer pairs are left out."""


def main() -> int:
    settings = parse()
    tuned = settings.style == "tuned"
    if tuned:
        keep_large_buffers()  # before torch allocates anything
    import torch
    from transformers import PreTrainedTokenizerFast

    torch.set_num_threads(settings.threads)
    if tuned:
        torch.set_flush_denormal(True)
    torch.manual_seed(settings.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(settings.tokenizer)
    work = {"decoder": decoder, "masked": masked, "seq2seq": seq2seq}[settings.kind]
    model, rows, collator, extra = work(settings, tokenizer, tuned=tuned)
    print(json.dumps(measure(settings, model, rows, collator, extra, tuned=tuned)))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("kind", choices=("decoder", "masked", "seq2seq"))
    add("--train", type=Path, required=True, help="text, or .tsv.xz of pairs")
    add("--tokenizer", type=Path, required=True, help="a folder with tokenizer.json and tokenizer_config.json")
    add("--seconds", type=float, default=20.0, help="that are measured")
    add("--warm", type=float, default=4.0, help="seconds before, that are not")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=1)
    add("--style", choices=("default", "tuned"), default="default")
    add("--batches", choices=("padded", "grouped", "budget"), default="padded")
    add("--width", type=int, default=256, help="tokens of a row of running text")
    add("--rows", type=int, default=8, help="of a batch of running text (the Trainer's own default)")
    add("--step-tokens", type=float, help="real tokens of a batch of pairs, on average")
    add(
        "--budget",
        type=int,
        default=4096,
        help="padded tokens of the wider side of a batch of pairs, for --batches budget",
    )
    add("--d-model", type=int, default=256)
    add("--layers", type=int, default=6)
    add("--heads", type=int, default=4)
    add("--d-ff", type=int, default=1024)
    add("--dropout", type=float, default=0.0)
    add("--lr", type=float, default=5e-4)
    return parser.parse_args()


Work = tuple[Any, Any, Any, dict[str, Any]]
"""A model, its examples, what makes batches of them, and further arguments of the Trainer."""


def decoder(settings: argparse.Namespace, tokenizer: Any, *, tuned: bool) -> Work:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=settings.width, n_embd=settings.d_model, n_layer=settings.layers,
        n_head=settings.heads, n_inner=settings.d_ff, resid_pdrop=settings.dropout, embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
    )  # fmt: skip
    if tuned:
        config.activation_function = "gelu_pytorch_tanh"
    documents = settings.train.read_text(encoding="utf-8").split("\n\n")
    return GPT2LMHeadModel(config), GPT2.rows(tokenizer, documents, settings.width), GPT2.collator(tokenizer), {}


def masked(settings: argparse.Namespace, tokenizer: Any, *, tuned: bool) -> Work:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=settings.d_model, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, intermediate_size=settings.d_ff, hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )  # fmt: skip
    documents = settings.train.read_text(encoding="utf-8").split("\n\n")
    return BertForMaskedLM(config), BERT.rows(tokenizer, documents, settings.width), BERT.collator(tokenizer), {}


def seq2seq(settings: argparse.Namespace, tokenizer: Any, *, tuned: bool) -> Work:
    from transformers import DataCollatorForSeq2Seq, MarianConfig, MarianMTModel

    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    config = MarianConfig(
        vocab_size=len(tokenizer), d_model=settings.d_model, encoder_layers=settings.layers, decoder_layers=settings.layers,
        encoder_attention_heads=settings.heads, decoder_attention_heads=settings.heads, encoder_ffn_dim=settings.d_ff,
        decoder_ffn_dim=settings.d_ff, activation_function="relu", scale_embedding=True,
        share_encoder_decoder_embeddings=True, tie_word_embeddings=True, max_position_embeddings=512,
        dropout=settings.dropout, attention_dropout=0.0, activation_dropout=0.0, pad_token_id=pad, eos_token_id=end,
        bos_token_id=None, decoder_start_token_id=pad, forced_eos_token_id=end, use_cache=False,
    )  # fmt: skip
    model = MarianMTModel(config)
    with lzma.open(settings.train, "rt", encoding="utf-8") as lines:
        sides = [[[*encode(tokenizer, side), end] for side in line.rstrip("\n").split("\t")] for line in lines]
    pairs = [pair for pair in sides if max(map(len, pair)) <= MAX_TOKENS]
    mean = sum(len(side) for pair in pairs for side in pair) / len(pairs)
    rows = Pairs(pairs)
    extra: dict[str, Any] = {"per_device_train_batch_size": max(1, round(settings.step_tokens / mean))}
    if settings.batches == "grouped":
        extra["train_sampling_strategy"] = "group_by_length"
    return model, rows, DataCollatorForSeq2Seq(tokenizer, model=model), extra


class Pairs:
    """Source and target ids, as the Trainer reads them."""

    def __init__(self, pairs: Sequence[Sequence[list[int]]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        source, target = self.pairs[index]
        return {"input_ids": source, "attention_mask": [1] * len(source), "labels": target}


def measure(
    settings: argparse.Namespace, model: Any, rows: Any, collator: Any, extra: dict[str, Any], *, tuned: bool
) -> dict[str, Any]:
    """Train for a while; tokens per second between the end of the first step after the warm-up and that of the last.

    Batches of like length come in random order: the Trainer's own sampler begins with its longest, and a short measurement would
    see no others.
    """
    import torch
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    ends: list[tuple[float, int]] = []  # of each step: the time, and the real tokens up to then
    seen = 0

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            ends.append((time.perf_counter(), seen))
            control.should_training_stop = ends[-1][0] - ends[0][0] >= settings.warm + settings.seconds

    class Counting(Trainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
            nonlocal seen
            seen += real_tokens(inputs)
            return super().training_step(model, inputs, *rest, **named)

        def get_train_dataloader(self) -> Any:
            if settings.batches == "padded":
                return super().get_train_dataloader()
            if settings.batches == "budget":
                batches = budgeted([max(map(len, pair)) for pair in rows.pairs], settings.budget, settings.seed)
            else:
                order, size = list(self._get_train_sampler()), self.args.per_device_train_batch_size
                batches = [order[at : at + size] for at in range(0, len(order), size)]
            sampler = Shuffled(batches, settings.seed)
            return torch.utils.data.DataLoader(rows, batch_sampler=sampler, collate_fn=collator)

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            **{
                "output_dir": scratch, "per_device_train_batch_size": settings.rows, "learning_rate": settings.lr,
                "max_steps": 10_000_000, "seed": settings.seed, "use_cpu": True, "save_strategy": "no",
                "logging_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_nan_inf_filter": not tuned,
                **extra,
            }
        )  # fmt: skip
        trainer = Counting(model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[Watch()])
        trainer.remove_callback(PrinterCallback)  # it writes to stdout
        trainer.train()
    first = next(i for i, (at, _) in enumerate(ends) if at - ends[0][0] >= settings.warm or i + 2 >= len(ends))
    seconds, tokens = ends[-1][0] - ends[first][0], ends[-1][1] - ends[first][1]
    return {
        "tokens_per_second": tokens / seconds, "steps": len(ends) - 1 - first, "seconds": seconds,
        "tokens_per_step": tokens / (len(ends) - 1 - first), "params": sum(p.numel() for p in model.parameters()),
        "optimizer": str(arguments.optim),
    }  # fmt: skip


def real_tokens(inputs: dict[str, Any]) -> int:
    """Of both sides of pairs, ends included, without padding; of running text, which has no padding, all."""
    if "decoder_input_ids" in inputs:
        return int(inputs["attention_mask"].sum() + (inputs["labels"] != -100).sum())
    return int(inputs["input_ids"].numel())


def budgeted(widths: Sequence[int], budget: int, seed: int) -> list[list[int]]:
    """Batches of examples of like length: as many rows as keep rows × longest within the budget."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(widths)).tolist()
    order.sort(key=lambda i: widths[i])
    batches: list[list[int]] = [[]]
    for i in order:
        if batches[-1] and widths[i] * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(i)
    return batches


class Shuffled:
    """The batches, epoch after epoch in another order."""

    def __init__(self, batches: Sequence[list[int]], seed: int) -> None:
        import numpy as np

        self.batches, self.random = batches, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for b in self.random.permutation(len(self.batches)):
            yield self.batches[b]


if __name__ == "__main__":
    sys.exit(main())
