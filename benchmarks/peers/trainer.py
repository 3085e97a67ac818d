"""The peer: `transformers`' GPT-2 or BERT trained from scratch by its Trainer. Imports nothing of ciyuan.

    python benchmarks/peers/trainer.py gpt2 --train T.txt --tokenizer DIR --minutes 6 --lr 1e-3 --seed 1 --out MODEL
    python benchmarks/peers/trainer.py bert --train T.txt --tokenizer DIR --minutes 6 --lr 1e-3 --seed 1 --out MODEL

Leaves a model folder and prints one JSON object. What an expert would do for a few minutes of a CPU is done: SDPA attention,
GELU by its fused form, no dropout, fused AdamW (betas 0.9 and --beta2), weight decay on matrices alone, gradients clipped at
1.0, rows of full length without padding, a linear warm-up over a twentieth of the time, then a line (or --schedule cosine)
that ends when the time does, by the clock, so that no rate suffers from a guess of how many steps there will be; no logging,
no saving on the way, the C allocator told to keep its large buffers, and tiny numbers taken for zero, as ciyuan does. The
clock counts training alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WARMUP = 0.05
"""Share of the time."""


def main() -> int:
    settings = parse()
    keep_large_buffers()  # before torch allocates anything
    import torch
    from transformers import PreTrainedTokenizerFast

    torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(settings.seed)
    began = time.perf_counter()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(settings.tokenizer)
    documents = settings.train.read_text(encoding="utf-8").split("\n\n")
    rows = KINDS[settings.kind].rows(tokenizer, documents, settings.width)
    model = KINDS[settings.kind].build(settings, tokenizer)
    preparation = time.perf_counter() - began
    spent, steps = train(model, tokenizer, rows, settings)
    model.save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    row = {
        "seconds": round(spent, 2),
        "steps": steps,
        "epochs": round(steps * settings.batch / len(rows), 2),
        "params": sum(p.numel() for p in model.parameters()),
        "preparation_seconds": round(preparation, 1),
    }
    sys.stdout.write(json.dumps(row) + "\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("kind", choices=tuple(KINDS))
    add("--train", type=Path, required=True, help="text; a blank line parts documents")
    add("--tokenizer", type=Path, required=True, help="a folder with tokenizer.json and tokenizer_config.json")
    add("--out", type=Path, required=True)
    add("--minutes", type=float, required=True, help="of training")
    add("--lr", type=float, required=True)
    add("--seed", type=int, default=1)
    add("--threads", type=int, default=2)
    add("--width", type=int, default=256, help="tokens of a row")
    add("--batch", type=int, default=8, help="rows of a batch (the Trainer's own default)")
    add("--d-model", type=int, default=256)
    add("--layers", type=int, default=6)
    add("--heads", type=int, default=4)
    add("--d-ff", type=int, default=1024)
    add("--beta2", type=float, default=0.98)
    add("--weight-decay", type=float, default=0.01)
    add("--schedule", choices=("linear", "cosine"), default="linear")
    return parser.parse_args()


def train(model: Any, tokenizer: Any, rows: Any, settings: argparse.Namespace) -> tuple[float, int]:
    """Train until the time is up. Returns the seconds that it took and the steps that were made."""
    import torch
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    clock = Clock(60 * settings.minutes)

    class UntilTheEnd(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = clock.step()

    class ByTheClock(Trainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            shape = SCHEDULES[settings.schedule]
            chosen: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, lambda step: shape(clock.progress()))
            return self.lr_scheduler

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch, per_device_train_batch_size=settings.batch, learning_rate=settings.lr, seed=settings.seed,
            max_steps=10_000_000, optim="adamw_torch_fused", adam_beta1=0.9, adam_beta2=settings.beta2,
            weight_decay=settings.weight_decay, max_grad_norm=1.0, use_cpu=True, save_strategy="no", logging_strategy="no",
            report_to="none", disable_tqdm=True, logging_nan_inf_filter=False,
        )  # fmt: skip
        trainer = ByTheClock(
            model=model, args=arguments, train_dataset=rows, callbacks=[UntilTheEnd()],
            data_collator=KINDS[settings.kind].collator(tokenizer),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # it writes to stdout
        trainer.train()
    return clock.spent(), clock.steps


class Clock:
    """How far a run is. It ends with the step that ends nearest to the time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0
        self.began = time.perf_counter()

    def start(self) -> None:
        self.began = time.perf_counter()

    def spent(self) -> float:
        return time.perf_counter() - self.began

    def progress(self) -> float:
        return min(1.0, self.spent() / self.seconds)

    def step(self) -> bool:
        """Count one. True: another would end further from the time than this one did."""
        self.steps += 1
        spent = self.spent()
        return spent + 0.5 * spent / self.steps >= self.seconds


def linear(progress: float) -> float:
    return min(max(progress, 0.001) / WARMUP, (1 - progress) / (1 - WARMUP))


def cosine(progress: float) -> float:
    """Down to a tenth."""
    falls = 0.1 + 0.45 * (1 + math.cos(math.pi * max(0.0, progress - WARMUP) / (1 - WARMUP)))
    return min(max(progress, 0.001) / WARMUP, falls)


SCHEDULES: dict[str, Callable[[float], float]] = {"linear": linear, "cosine": cosine}


# What is trained


class GPT2:
    """Running text: documents one after another, cut into rows, as `run_clm` does."""

    @staticmethod
    def rows(tokenizer: Any, documents: Sequence[str], width: int) -> Any:
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ids = [i for document in documents for i in [*encode(tokenizer, document), *end]]
        return cut(ids, width)

    @staticmethod
    def build(settings: argparse.Namespace, tokenizer: Any) -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=settings.width, n_embd=settings.d_model, n_layer=settings.layers,
            n_head=settings.heads, n_inner=settings.d_ff, activation_function="gelu_pytorch_tanh", resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            use_cache=False,
        )  # fmt: skip
        return GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")

    @staticmethod
    def collator(tokenizer: Any) -> Any:
        import torch

        def collate(rows: Sequence[Any]) -> dict[str, Any]:
            ids = torch.stack([row["input_ids"] for row in rows])
            return {"input_ids": ids, "labels": ids}

        return collate


class BERT:
    """Running text in rows between [CLS] and [SEP], documents parted by [SEP], masked anew each time a row is seen."""

    @staticmethod
    def rows(tokenizer: Any, documents: Sequence[str], width: int) -> Any:
        ids = [i for document in documents for i in [*encode(tokenizer, document), tokenizer.sep_token_id]]
        head, tail = tokenizer.cls_token_id, tokenizer.sep_token_id
        return Rows([[head, *ids[at : at + width - 2], tail] for at in range(0, len(ids) - width + 3, width - 2)])

    @staticmethod
    def build(settings: argparse.Namespace, tokenizer: Any) -> Any:
        from transformers import BertConfig, BertForMaskedLM

        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=settings.d_model, num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads, intermediate_size=settings.d_ff, max_position_embeddings=512,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        return BertForMaskedLM._from_config(config, attn_implementation="sdpa")

    @staticmethod
    def collator(tokenizer: Any) -> Any:
        from transformers import DataCollatorForLanguageModeling

        return DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.15)


KINDS: dict[str, Any] = {"gpt2": GPT2, "bert": BERT}


class Rows:
    """A data set of rows of one length, as the Trainer reads it."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        import torch

        self.ids = torch.tensor(rows)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index]}


def cut(ids: Sequence[int], width: int) -> Rows:
    """Full rows of ids; what is left over at the end is left out."""
    return Rows([ids[at : at + width] for at in range(0, len(ids) - width + 1, width)])


def encode(tokenizer: Any, text: str) -> list[int]:
    """Without markers. By the library below, which does not warn of long texts."""
    found: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return found


def keep_large_buffers() -> None:
    """Tell glibc to reuse large buffers, not to give them back to the system after every use. Elsewhere, nothing."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


if __name__ == "__main__":
    sys.exit(main())
