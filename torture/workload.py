"""A run small enough to be killed hundreds of times, and all that it leaves behind, for comparison.

Two forms: `recipe`, everything that `ciyuan train` does on a file of pairs, and `ranks`, the loop alone in one process or several.
The model is a real encoder–decoder with dropout; batches are shuffled, two are accumulated, weights are averaged.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ciyuan.data.loader import Loader
from ciyuan.errors import CiyuanError
from ciyuan.interop.tensors import write_tensors
from ciyuan.model import Transformer, initialise
from ciyuan.model.config import ModelSettings
from ciyuan.objectives import Seq2Seq
from ciyuan.recipe.running import run_training
from ciyuan.recipe.settings import Recipe
from ciyuan.text import Tokenizer
from ciyuan.training import RunFolder, Silent, TrainingSettings, checkpoint, train
from torture.harness import replaced

processes = multiprocessing.get_context("forkserver")
"""Its server has torch in it already, so that a process more costs next to nothing."""
processes.set_forkserver_preload(["__main__", "torture.workload"])

STEPS = 24
ABANDONED = 75
"""Exit code of a rank whose neighbour died."""
PAD, START, END, V = 0, 1, 2, 40
WORDS = {"red": "红", "dog": "狗", "sees": "看见", "cat": "猫", "big": "大", "bird": "鸟"}
CLOCKED = ("elapsed", "tokens_per_second", "of_ceiling")
CLOCKED_STATE = ("elapsed", "costs", "sums", "log_position")


@dataclass(frozen=True)
class Sitting:
    """One start of a run, up to its end or until it is killed. form: "recipe", or the number of ranks.

    background: save so, which must leave no trace in what remains. fatal: kill this process at that call of a disk function
    inside a save, counted from 1 over the sitting; 0: never.
    """

    folder: Path
    form: str = "1"
    steps: int = STEPS
    fatal: int = 0
    background: bool = False
    mutant: str | None = None
    threads: int = 1
    seed: int = 3


def sit(sitting: Sitting, mutants: Mapping[str, Callable[[], AbstractContextManager[Any]]], rank: int = 0) -> None:
    """Begin, or go on where the folder has a run. Ends the process with the exit code of what went wrong, if anything did."""
    torch.set_num_threads(sitting.threads)
    with contextlib.ExitStack() as stack:
        if sitting.mutant is not None:
            stack.enter_context(mutants[sitting.mutant]())
        stack.enter_context(_fatal_call(sitting))
        try:
            if sitting.form == "recipe":
                os.environ["CIYUAN_CACHE"] = str(sitting.folder.parent / "cache")
                run_training(recipe(sitting), sitting.folder, resume=sitting.folder.exists(), monitor=Quiet())
            else:
                train_ranks(sitting, rank, int(sitting.form))
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except CiyuanError as error:
            (sitting.folder.parent / f"{sitting.folder.name}.said").write_text(str(error), encoding="utf-8")
            raise SystemExit(error.exit_code) from None
        except RuntimeError as error:
            if sitting.form in ("1", "recipe") or "peer" not in str(error):
                raise
            raise SystemExit(ABANDONED) from None


class Quiet(Silent):
    def on_preview(self, examples: Any) -> None:
        pass


def recipe(sitting: Sitting) -> Recipe:
    pairs = sitting.folder.parents[1] / "pairs.tsv"  # one file for all cases, for its name is in what a run leaves
    if not pairs.exists():
        write_pairs(pairs)
    return Recipe.model_validate(
        {
            "task": "translate",
            "data": {"train": (str(pairs),), "dev": 4, "source": "en", "target": "zh"},
            "tokenizer": {"kind": "char-bpe", "vocab_size": 300},
            "model": {
                "preset": "modern-seq2seq", "d_model": 32, "n_layers": 1, "n_decoder_layers": 1, "n_heads": 2, "d_ff": 32,
                "dropout": 0.1,
            },
            "training": settings(sitting).model_dump() | {"batch_tokens": 400, "evaluate_every": 12, "average": "none"},
        }
    )  # fmt: skip


def settings(sitting: Sitting) -> TrainingSettings:
    return TrainingSettings(
        steps=sitting.steps, batch_tokens=80, accumulate=2, average="ema", checkpoint_every=3, evaluate_every=5, log_every=1,
        seed=sitting.seed, threads=sitting.threads, save_in_background=sitting.background,
    )  # fmt: skip


def write_pairs(path: Path, n: int = 120, seed: int = 0) -> None:
    draw = random.Random(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < n:
        words = draw.choices(list(WORDS), k=draw.randint(2, 5))
        pairs[" ".join(words)] = "".join(WORDS[word] for word in words)
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs.items()), encoding="utf-8")


# --- The loop alone ----------------------------------------------------------------------------------------------------


def build(tokenizer: Tokenizer | None = None, *, seed: int = 0) -> Transformer:
    chosen = ModelSettings(
        preset="modern-seq2seq", d_model=16, n_layers=1, n_decoder_layers=1, n_heads=2, d_ff=16, dropout=0.2
    )
    if tokenizer is None:
        config = chosen.build(V, pad_id=PAD, bos_id=START, eos_id=END)
    else:
        ids = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
        config = chosen.build(tokenizer.vocab_size, pad_id=ids[0], bos_id=ids[1], eos_id=ids[2])
    model = Transformer(config)
    initialise(model, scheme="zero_output", seed=seed)
    return model


def objective() -> Seq2Seq:
    return Seq2Seq(pad_id=PAD, start_id=START, eos_id=END, label_smoothing=0.1)


def corpus(n: int = 70, seed: int = 0) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 9, n)
    return [(draw.integers(3, V, size), draw.integers(3, V, size)) for size in sizes]


def loader(texts: list[Any], wanted: TrainingSettings, rank: int = 0, world: int = 1) -> Loader:
    lengths = [(len(source), len(target)) for source, target in texts]
    return Loader(lengths, wanted.batch_tokens, wanted.seed, rank=rank, world=world)


def train_ranks(sitting: Sitting, rank: int, world: int, **more: Any) -> Any:
    folder, texts, wanted = sitting.folder, corpus(), settings(sitting)
    resume = (folder / ".lock").exists()
    joined = more.pop("joined", world == 1)
    if not joined:
        store = dist.FileStore(str(folder.parent / f"{folder.name}.meet"), world)  # type: ignore[attr-defined]  # its stub hides it
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    model = more.pop("model", None) or build(seed=rank)  # rank 0's weights are everyone's
    asked = more.pop("objective", None) or objective()
    with RunFolder.open(folder, resume=resume) if rank == 0 else RunFolder(folder, None) as run:
        result = train(
            model, asked, lambda numbers: [texts[i] for i in numbers], loader(texts, wanted, rank, world),
            more.pop("settings", wanted), run=run, evaluate=more.pop("evaluate", dev_loss),
            save_best=lambda best: save_model(folder, best), resume=resume, **more,
        )  # fmt: skip
    if not joined:
        dist.destroy_process_group()
    return result


@torch.no_grad()
def dev_loss(model: Transformer) -> dict[str, float]:
    """Draws from every generator on the way, as a careless metric would."""
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    asked = objective()
    loss = asked.loss(model, asked.collate(corpus(12, seed=9)))
    return {"nll": float(loss.sum) / loss.count}


def save_model(folder: Path, model: Transformer) -> None:
    draft = folder / "tmp-model.safetensors"
    with draft.open("wb") as file:
        write_tensors(file, dict(model.state_dict()))
    draft.replace(folder / "model.safetensors")


# --- Processes that are killed -----------------------------------------------------------------------------------------


def launch(sitting: Sitting, mutants: Any) -> list[BaseProcess]:
    """Start a sitting's process, or one for each of its ranks."""
    ranks = 1 if sitting.form == "recipe" else int(sitting.form)
    (sitting.folder.parent / f"{sitting.folder.name}.meet").unlink(missing_ok=True)
    started: list[BaseProcess] = [processes.Process(target=sit, args=(sitting, mutants, rank)) for rank in range(ranks)]
    for process in started:
        process.start()
    return started


def wait(started: list[BaseProcess], seconds: float = 60.0) -> list[int | None]:
    """Exit codes. What has not ended in time is killed; so are, five seconds after a rank has died, the others."""
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in started) and time.monotonic() < end:
        if any(process.exitcode for process in started):
            end = min(end, time.monotonic() + 5)
        for process in started:
            process.join(timeout=0.005)
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
    return [process.exitcode for process in started]


@contextlib.contextmanager
def _fatal_call(sitting: Sitting) -> Iterator[None]:
    """SIGKILL to this process at the fatal-th disk call inside a save: at a write, which is then half done, a sync or a rename.

    A sitting that survives leaves the number of such calls in NAME.calls.
    """
    count, inside = 0, False

    def counted(real: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if inside:
                count += 1
                if count == sitting.fatal:
                    if half is not None:
                        half(*args)
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    def half_written(file: Any, data: Any) -> None:
        file._file.write(bytes(data)[: len(data) // 2])
        file._file.flush()

    real_write = checkpoint.Checkpoints._write

    def write(*args: Any) -> Path:
        nonlocal inside
        inside = True
        try:
            return real_write(*args)
        finally:
            inside = False

    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (checkpoint.Checkpoints, "_write", write),
            (checkpoint._Hashed, "write", counted(checkpoint._Hashed.write, half_written)),
            (os, "fsync", counted(os.fsync)),
            (Path, "rename", counted(Path.rename)),
        ):
            stack.enter_context(replaced(owner, name, value))
        yield
    calls = sitting.folder.with_name(f"{sitting.folder.name}.calls")
    if count:
        calls.write_text(str(count))


# --- What is compared --------------------------------------------------------------------------------------------------


def remains(folder: Path) -> dict[str, Any]:
    """All that a finished run leaves, what the clock decides left out: weights, optimiser, averages, generators, numbers, logs."""
    found: dict[str, Any] = {}
    newest = checkpoint.Checkpoints(folder / "checkpoints").folders()[-1]
    for path in sorted(newest.glob("*.safetensors")):
        found[path.name] = path.read_bytes()
    state = json.loads((newest / "state.json").read_text(encoding="utf-8"))["state"]
    found["state"] = {name: value for name, value in state.items() if name not in CLOCKED_STATE}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found["metrics"] = [{name: value for name, value in line.items() if name not in CLOCKED} for line in lines]
    for name in ("ledger.bin", "model.safetensors", "tokenizer.json", "config.json", "ciyuan.json"):
        if (
            folder / name
        ).exists():  # of saving in the background the recipe in ciyuan.json tells, and nothing else may
            found[name] = (
                (folder / name).read_bytes().replace(b"save_in_background: true", b"save_in_background: false")
            )
    return found


def difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """The first thing that is not the same in both."""
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            if name == "metrics":
                for first, second in zip(one[name], two[name]):
                    if first != second:
                        return f"metrics: {first} and {second}"
                return f"metrics: {len(one[name])} and {len(two[name])} lines"
            return name
    return None
