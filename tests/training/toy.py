"""A model, an objective and a run small enough to be trained hundreds of times."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciyuan.batch import IGNORED, Batch, Layout, Loss, Stream
from ciyuan.data.loader import Loader
from ciyuan.model import ModelConfig
from ciyuan.training import RunFolder, TrainingSettings, train
from ciyuan.training.rates import Learner, resolve

V, D = 11, 6
CONFIG = ModelConfig(family="decoder", vocab_size=V, d_model=D, n_heads=1, norm_position="pre", tied=False)
"""What a toy says of itself: no more of it is true than that its norms are not after the sum and its head is its own."""


class Toy(nn.Module):
    """Reads a token, guesses the next: an embedding, matrices of three shapes, a norm, dropout and a head."""

    def __init__(self, *, seed: int = 0, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = CONFIG
        self.embedding = nn.Embedding(V, D)
        self.wide, self.upright, self.square = nn.Linear(2 * D, D), nn.Linear(D, 2 * D), nn.Linear(D, D, bias=False)
        self.other_square = nn.Linear(D, D, bias=False)
        self.norm, self.dropout = nn.LayerNorm(D), nn.Dropout(dropout)
        self.head = nn.Linear(D, V, bias=False)
        self.register_buffer("table", torch.arange(3.0))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        self.to(dtype)

    def forward(self, batch: Batch) -> Tensor:
        x = self.dropout(self.embedding(batch.text.tokens))
        x = self.square(x) + x
        x = self.dropout(self.wide(torch.tanh(self.upright(x)))) + self.other_square(x)
        return self.head(self.norm(x))[batch.targets != IGNORED]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        hidden = [self.wide.weight, self.upright.weight, self.square.weight, self.other_square.weight]
        known = {*hidden, self.embedding.weight, self.head.weight}
        other = [parameter for parameter in self.parameters() if parameter not in known]
        return {"hidden": hidden, "embedding": [self.embedding.weight], "head": [self.head.weight], "other": other}


class NextToken:
    """The mean of the loss is over the tokens that have a next one."""

    columns = ("text",)

    def collate(self, examples: Any, *, numbers: Any = (), epoch: int = 0) -> Batch:
        width = max(map(len, examples))
        tokens = torch.zeros(len(examples), width, dtype=torch.int64)
        targets = torch.full((len(examples), width), IGNORED)
        for row, ids in enumerate(examples):
            tokens[row, : len(ids)] = torch.tensor(ids)
            targets[row, : len(ids) - 1] = torch.tensor(ids[1:])
        text = Stream(tokens, Layout.of_lengths([len(ids) for ids in examples], width))
        return Batch(text, targets, int((targets != IGNORED).sum()), examples=tuple(numbers))

    def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
        targets = batch.targets[batch.targets != IGNORED]
        total = F.cross_entropy(model(batch), targets, reduction="sum")
        return Loss(total, batch.count, {"nll": (total.detach(), batch.count)})


def corpus(n: int = 60, *, seed: int = 0) -> list[list[int]]:
    """Texts in which most tokens follow from the one before."""
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(n):
        ids = [int(draw.integers(1, V))]
        for _ in range(int(draw.integers(1, 9))):
            ids.append(ids[-1] * 3 % V if draw.random() < 0.9 else int(draw.integers(1, V)))
        texts.append(ids)
    return texts


def settings(**changes: Any) -> TrainingSettings:
    fields: dict[str, Any] = {"batch_tokens": 40, "accumulate": 1, "seed": 3, "log_every": 5}
    if not changes.keys() & {"steps", "minutes", "tokens"}:
        fields["steps"] = 20
    return TrainingSettings.model_validate({**fields, **changes}, strict=True)


def resolved(**changes: Any) -> TrainingSettings:
    return resolve(settings(**changes), Learner())


@torch.no_grad()
def dev_loss(model: Any) -> dict[str, float]:
    """Draws from every generator on the way, as a careless metric would."""
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    assert not model.training
    objective = NextToken()
    loss = objective.loss(model, objective.collate(corpus(20, seed=9)))
    return {"nll": float(loss.sum) / loss.count}


def loader(texts: list[list[int]], wanted: TrainingSettings) -> Loader:
    return Loader([len(text) for text in texts], wanted.batch_tokens, wanted.seed, extra=0)


def run_toy(folder: Path, wanted: TrainingSettings, *, resume: bool = False, dropout: float = 0.2, **more: Any) -> Any:
    """Train a toy in `folder`. Returns (model, result)."""
    model = Toy(dropout=dropout)
    texts = corpus()
    with RunFolder.open(folder, resume=resume) as run:
        more.setdefault("evaluate", dev_loss)
        objective = more.pop("objective", NextToken())
        examples = more.pop("examples", lambda numbers: [texts[i] for i in numbers])
        result = train(model, objective, examples, loader(texts, wanted), wanted, run=run, resume=resume, **more)  # type: ignore[arg-type]
    return model, result


processes = multiprocessing.get_context("forkserver")
"""For runs that are killed. Its server has torch in it already, so that a process more costs next to nothing."""
processes.set_forkserver_preload(["__main__", "tests.training.toy", "tests.training.test_distributed"])


def run_slowly(folder: Path, pause: float) -> None:
    """The run that tests kill: begins or goes on, `pause` seconds a batch."""
    torch.set_num_threads(1)

    class Slow(NextToken):
        def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
            time.sleep(pause)
            return super().loss(model, batch)

    wanted = settings(steps=60, accumulate=2, average="ema", checkpoint_every=3, evaluate_every=10, log_every=1)
    run_toy(folder, wanted, resume=folder.exists(), objective=Slow())
