"""Two processes over gloo against one alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ciyuan.batch import Batch, Loss
from ciyuan.data.loader import Loader
from ciyuan.errors import Stopped
from ciyuan.training import RunFolder, train
from ciyuan.training.distributed import Ranks
from tests.training.toy import NextToken, Toy, corpus, dev_loss, processes, settings


def run(folder: Path, rank: int, world: int, *, dropout: float = 0.0, resume: bool = False, stop_at: int = 0) -> None:
    """Writes this rank's final weights to `folder`/rank. At step `stop_at` rank 1 alone gets a SIGTERM."""
    texts, wanted = corpus(), settings(steps=8, accumulate=2, log_every=1, checkpoint_every=3)
    planned = Loader([len(text) for text in texts], wanted.batch_tokens, wanted.seed, extra=0, rank=rank, world=world)
    model = Toy(seed=rank, dropout=dropout)  # rank 0's weights are everyone's

    class Objective(NextToken):
        calls = 0

        def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
            self.calls += 1
            if stop_at and self.calls == 2 * stop_at and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(model, batch)

    opened = RunFolder.open(folder / "run", resume=resume) if rank == 0 else RunFolder(folder / "run", None)
    try:
        train(
            model, Objective(), lambda numbers: [texts[i] for i in numbers], planned, wanted, run=opened, evaluate=dev_loss,
            resume=resume,
        )  # fmt: skip
    except Stopped as stopped:
        if f"step {stop_at}" not in str(stopped):
            raise
    opened.close()
    torch.save([parameter.detach() for parameter in model.parameters()], folder / f"rank{rank}.pt")


def meet_and_run(folder: Path, rank: int, world: int, **options: Any) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "meet"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    run(folder, rank, world, **options)
    dist.destroy_process_group()


def launch(folder: Path, world: int, **options: object) -> list[list[torch.Tensor]]:
    folder.mkdir(exist_ok=True)
    (folder / "meet").unlink(missing_ok=True)
    started = [
        processes.Process(target=meet_and_run, args=(folder, rank, world), kwargs=options) for rank in range(world)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
        assert process.exitcode == 0
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    one, two = launch(tmp_path / "two", 2)
    (tmp_path / "one").mkdir()
    run(tmp_path / "one", 0, 1)
    alone = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    for a, b in zip(one, alone):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # sums in another order, through Muon's eight steps
    lines = [(tmp_path / name / "run" / "metrics.jsonl").read_text().count("\n") for name in ("one", "two")]
    assert lines[0] == lines[1]


def test_two_ranks_stop_together_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    launch(tmp_path / "cut", 2, dropout=0.2, stop_at=5)
    resumed = launch(tmp_path / "cut", 2, dropout=0.2, resume=True)
    through = launch(tmp_path / "through", 2, dropout=0.2)
    for ranks in zip(resumed, through):
        assert all(torch.equal(a, b) for a, b in zip(*ranks))


def test_alone_every_exchange_is_a_no_op() -> None:
    ranks = Ranks.here()
    assert ranks.leads
    assert ranks.add_named({"a": 1.0}) == {"a": 1.0}
    assert ranks.hear({"b": 2.0}) == {"b": 2.0}
    assert torch.equal(ranks.add(torch.ones(2)), torch.ones(2))
