"""The one training loop.

    batches ──> loss (sum, count) ──> gradient ──> ÷ count of all micro-batches and ranks ──> clip ──> optimiser ──> average
       ▲                                                                                                             │
       └── evaluate, keep the best · save a checkpoint · stop: only between two steps, each when it is due ──────────┘

What a run knows at step N is a pure function of its settings, its data and N, apart from what the clock decides under `minutes`;
so a run that was killed anywhere goes on from its last checkpoint bit for bit.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ciyuan.batch import Batch
from ciyuan.data.loader import Loader
from ciyuan.data.prefetch import Prefetch
from ciyuan.errors import CheckpointError, Stopped, TrainingError, UserError
from ciyuan.model.lora import signature
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.objective import Objective
from ciyuan.training.averaging import Average
from ciyuan.training.checkpoint import Checkpoint, require_space
from ciyuan.training.distributed import Ranks
from ciyuan.training.ledger import Ledger, mark
from ciyuan.training.monitor import (
    EvaluationReport,
    Monitor,
    RunLog,
    RunStart,
    Several,
    StepReport,
    TrainingResult,
)
from ciyuan.training.optimizers import build_optimizer
from ciyuan.training.run import RunFolder
from ciyuan.training.schedules import rate
from ciyuan.training.settings import TrainingSettings
from ciyuan.training.signals import Interrupted, Signals
from ciyuan.training.source import Examples, LoaderSource, Source

Evaluate = Callable[[Transformer], Mapping[str, float]]
SaveBest = Callable[[Transformer], None]

LOWER_IS_BETTER = ("loss", "nll", "perplexity", "bits_per_byte", "ter", "wer", "cer")
FREE = ("threads", "checkpoint_every", "keep_checkpoints", "device", "on_nonfinite")
"""Settings that may change when a run goes on: they decide nothing about what is learnt, but for rounding and for what is done
about a step that cannot be learnt from."""

EVALUATION_SHARE = 0.05  # of a run's minutes, under evaluate_every: auto
FIRST_EVALUATION = 0.1  # of the run: early, for it tells how much time the last one will need
CHECKPOINT_SECONDS = 60.0
CHECKPOINT_SHARE = 0.05
SPIKE_SIGMAS, SPIKE_MEMORY, SPIKE_AFTER = 6.0, 0.98, 50


def train(
    model: Transformer,
    objective: Objective,
    examples: Examples,
    loader: Loader,
    settings: TrainingSettings,
    *,
    run: RunFolder,
    evaluate: Evaluate | None = None,
    save_best: SaveBest | None = None,
    monitor: Monitor | None = None,
    resume: bool = False,
    spent: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train a model in place, on the device where it is, until a limit of the settings is reached.

    examples: example numbers to examples, e.g. a token store's `examples`. evaluate: scores of the model, by name, the same for
    the same weights. save_best: keeps the model, whenever it is the best so far (with nothing to evaluate: as often, and at
    the end). Both find the averaged weights in the model, if any, and eval mode; random generators are put back after them.
    resume: go on from the run's newest whole checkpoint, or begin where there is none; a finished run is left as it is.
    spent: seconds of learning before the first step, a warm start's, which count towards the run's minutes.

    When it returns the model has the weights of the last step (not the best, not the averaged). The process is seeded.
    Raises Stopped after SIGTERM or SIGINT, with a checkpoint written; TrainingError where nothing can be learnt; DiskError;
    CheckpointError where the checkpoints are damaged or of another run.
    """
    source = LoaderSource(objective.collate, examples, loader, accumulate=settings.accumulate)
    return Training(
        model, objective.loss, source, settings, run=run, evaluate=evaluate, save_best=save_best, monitor=monitor,
        spent=spent, clock=clock,
    ).go(resume=resume)  # fmt: skip


@dataclass
class State:
    """All that a run knows besides tensors: what a checkpoint keeps as JSON."""

    step: int = 0
    tokens: int = 0
    elapsed: float = 0.0  # seconds, of all sittings together
    progress: float = 0.0
    evaluated: int = -1  # the step of the last evaluation
    next_evaluation: float = FIRST_EVALUATION  # progress
    evaluations_since_best: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    metric: str | None = None
    skipped: int = 0
    skipped_in_row: int = 0
    costs: dict[str, float] = field(default_factory=dict)  # seconds that the last evaluation, … took
    sums: dict[str, float] = field(default_factory=dict)  # since the last report
    spike: dict[str, float] = field(default_factory=lambda: {"n": 0, "mean": 0.0, "variance": 0.0, "warned": -1000})
    average_updates: int = 0
    best_waits: bool = False  # the best model is still to be written
    log_position: int = 0
    finished: str | None = None
    warnings: list[str] = field(default_factory=list)


class Training:
    """One run. `train` is its usual entry; here the loss is any function of (model, batch, progress), the batches of any Source."""

    def __init__(
        self,
        model: Transformer,
        loss: Callable[..., Any],
        source: Source,
        settings: TrainingSettings,
        *,
        run: RunFolder,
        evaluate: Evaluate | None = None,
        save_best: SaveBest | None = None,
        monitor: Monitor | None = None,
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if evaluate is None and settings.early_stop is not None:
            raise TrainingError("early_stop needs something to evaluate", fix="give data.dev, or leave early_stop out")
        self.model, self.loss, self.source, self.settings = model, loss, source, settings
        self.evaluate, self.save_best = evaluate, save_best
        self.ranks = Ranks.here()
        self.run = run
        self.state = State(elapsed=spent)
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.parameters.items()}
        groups = {
            role: [parameter for parameter in group if parameter.requires_grad]
            for role, group in model.parameter_groups().items()
        }
        assert sorted(names[p] for group in groups.values() for p in group) == sorted(names.values()), "each once"
        self.device = next(iter(self.parameters.values())).device
        self.optimizer = build_optimizer(groups, names, settings)
        self.average = Average(self.parameters, settings)
        self.checkpoints = run.checkpoints(settings.keep_checkpoints)
        self.signals = Signals()
        self.clock = clock
        self._origin = 0.0
        self._saved_step, self._saved_at = -1, 0.0
        self._step_seconds = 0.0
        self._ended: str | None = None
        given = [] if monitor is None or not self.ranks.leads else [monitor]
        self.log = RunLog(run.metrics, events=run.events) if self.ranks.leads else None
        self.ledger = Ledger(run.ledger) if self.ranks.leads else None
        self.monitor = Several([self.log, *given] if self.log is not None else given, self.state.warnings)

    # --- The story ---------------------------------------------------------------------------------------------------

    def go(self, *, resume: bool = False) -> TrainingResult:
        """Begin, or go on where a checkpoint left off, until the end."""
        with contextlib.ExitStack() as stack:
            if self.log is not None:
                stack.callback(self.log.close)
            torch.manual_seed(self.settings.seed + self.ranks.rank)
            self.ranks.share([*self.model.parameters(), *self.model.buffers()])
            self._begin(resume=resume)
            if self.state.finished is not None:
                self.monitor.on_message(
                    f"this run is finished (step {self.state.step}, {self.state.finished}): nothing to do"
                )
                return self._result(already_finished=True)
            self.monitor.on_start(self._start())
            stack.enter_context(_quiet_collector())
            stack.enter_context(self.signals)
            batches = stack.enter_context(Prefetch(self._batches_from(self.state.step)))
            self._origin = self.clock() - self.state.elapsed
            self._saved_at = self.state.elapsed
            if self.state.step == 0:  # what was spent before is no reason to evaluate a model that has learnt nothing
                self.state.next_evaluation = round(self._progress(self.state.elapsed) + FIRST_EVALUATION, 9)
            self._repeat(batches)
            result = self._result()
            self.monitor.on_end(result)
            return result

    def _repeat(self, batches: Iterator[list[Batch | None]]) -> None:
        """Between two steps one thing at a time, then look again: each takes time, and time decides."""
        while True:
            stop = self._agree()
            self._ended = self._ended or self._limit_reached()
            if stop:
                self._save()
                self.monitor.on_message(f"stopped by {self.signals.name} at step {self.state.step}: checkpoint written")
                raise Stopped(f"stopped by {self.signals.name} at step {self.state.step}; go on with --resume")
            if self._evaluation_due():
                self._evaluate()
            elif self.state.best_waits:
                if self._checkpoint_before_best():
                    self._save()
                else:
                    self._keep_best()
            elif self._ended is not None:
                self._keep_last_if_none_is_best()
                self._report_rest()
                self.state.finished = self._ended
                self._save()
                return
            elif self._checkpoint_due():
                self._save()
            else:
                self._step(next(batches))

    def _step(self, batches: list[Batch | None]) -> None:
        """One update, or none where the gradient is not finite."""
        state, settings = self.state, self.settings
        began = self.clock()
        share = rate(settings, state.progress, state.step)
        sums = self._gradient(batches)
        count = sums["count"]
        if count == 0:
            raise TrainingError(
                f"step {state.step + 1} has nothing to learn from: no target in {self._names(batches)}",
                fix="drop such examples from the data",
            )
        fed = round(sums.pop("mark"))
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))) / count
        if math.isfinite(norm) and math.isfinite(sums["loss"]):
            scale = 1.0 if settings.clip is None or norm <= settings.clip else settings.clip / norm
            torch._foreach_mul_(gradients, scale / count)  # the one division of the loop
            self.optimizer.step(share)
            state.skipped_in_row = 0
        else:
            self._skip(batches, sums)
        if self.ledger is not None:
            self.ledger.add(fed, self.ranks.world, skipped=state.skipped_in_row > 0)
        for parameter in self.parameters.values():
            parameter.grad = None
        state.step += 1
        state.tokens += int(sums.pop("tokens"))
        if state.skipped_in_row == 0:
            self._look_for_spike(sums["loss"] / count, batches)
            self.average.update(self._progress(self._now()))
            for name, number in sums.items():
                if math.isfinite(sums[name.removesuffix(".count")]):  # a measure may have no number where the loss has one
                    state.sums[name] = state.sums.get(name, 0.0) + number
        seconds = self.clock() - began
        self._step_seconds = seconds if self._step_seconds == 0 else 0.9 * self._step_seconds + 0.1 * seconds
        state.sums["seconds"] = state.sums.get("seconds", 0.0) + seconds
        state.sums["tokens"] = state.tokens - state.sums.get("tokens_before", 0)
        state.sums["lr"] = share * settings.rates["hidden" if settings.lora is None else "adapter"]
        if math.isfinite(norm):
            state.sums["norm"] = norm
        if state.step % settings.log_every == 0:
            self._report()

    def _gradient(self, batches: list[Batch | None]) -> dict[str, float]:
        """Leaves the gradient of the summed loss, over all micro-batches and ranks. Returns sums: loss, count, tokens, and what the
        objective measures as NAME and NAME.count."""
        self.model.train()
        kept: dict[str, list[Tensor | float]] = {"loss": []}
        sums: dict[str, float] = {"count": 0, "tokens": 0, "mark": mark(batches)}
        for batch in batches:
            if batch is None or batch.count == 0:
                continue
            sums["tokens"] += batch.n_tokens
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                loss = self.loss(self.model, batch.to(self.device), progress=self.state.progress)
            loss.sum.backward()
            sums["count"] += loss.count
            kept["loss"].append(loss.sum.detach())
            for name, (value, count) in loss.metrics.items():
                kept.setdefault(name, []).append(value)
                sums[f"{name}.count"] = sums.get(f"{name}.count", 0) + count
        for name, values in kept.items():
            sums[name] = math.fsum(float(value) for value in values)
        self.ranks.add_gradients(list(self.parameters.values()))
        return self.ranks.add_named(sums)

    def _skip(self, batches: list[Batch | None], sums: Mapping[str, float]) -> None:
        """An update that would put NaN into the weights is not made. The sums are of all ranks, which so decide alike."""
        state, step = self.state, self.state.step + 1
        what = "gradient" if math.isfinite(sums["loss"]) else "loss"
        where = self._names(batches)
        whole = "the last checkpoint is from before and whole"
        if (name := self._not_finite()) is not None:
            raise TrainingError(
                f"step {step}: the {what} is not finite, for an earlier update left {name} so",
                allowed=f"the update of an earlier step was too large; {whole}",
                fix="begin again with a lower training.lr",
            )
        if self.settings.on_nonfinite == "stop":
            raise TrainingError(
                f"step {step}: the {what} is not finite ({where}); no weight was touched, and {whole}",
                fix="drop those examples or lower training.lr and begin again; or "
                "go on past them with --resume --set training.on_nonfinite=skip",
            )
        state.skipped += 1
        state.skipped_in_row += 1
        self.monitor.on_warning(f"step {step}: the {what} is not finite, the update was skipped ({where})")
        if state.skipped_in_row >= self.settings.max_skipped:
            raise TrainingError(
                f"the {what} was not finite at {state.skipped_in_row} steps in a row, the last of them step {step}",
                allowed=f"the last batch: {where}",
                fix=f"try a lower training.lr; {whole}",
            )

    def _not_finite(self) -> str | None:
        """The first of all that is learnt or remembered that holds NaN or infinity."""
        remembered = {**self.optimizer.state(), **self.average.state()}
        for name, tensor in [*self.parameters.items(), *remembered.items()]:
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return name
        return None

    def _names(self, batches: list[Batch | None]) -> str:
        """The examples of a step, those of all ranks, for a message. Every rank must ask."""
        own = [number for batch in batches if batch is not None for number in batch.examples]
        numbers = [int(number) for number in self.ranks.add_named({str(number): 1.0 for number in own})]
        shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
        return f"examples {shown}" if numbers else "its examples"

    # --- Evaluation --------------------------------------------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        state, every = self.state, self.settings.evaluate_every
        if state.evaluated == state.step or (self.evaluate is None and self.save_best is None):
            return False
        if self._ended is not None:
            return True
        if state.step == 0:
            return False
        if every == "auto":
            return state.progress >= state.next_evaluation
        unmeasured = self.settings.minutes is not None and "evaluate" not in state.costs
        return state.step % every == 0 or (unmeasured and state.progress >= 2 * FIRST_EVALUATION)

    def _evaluate(self) -> None:
        """Score the model. A signal cuts it short; the evaluation is then still due."""
        state = self.state
        said: dict[str, float] = {}
        began = self.clock()
        with self._as_used():
            if self.ranks.leads and self.evaluate is not None:
                try:
                    with self.signals.may_interrupt():
                        said = {name: float(score) for name, score in self.evaluate(self.model).items()}
                except Interrupted:
                    said = {_INTERRUPTED: 1.0}
                except Exception as error:
                    if state.evaluated < 0 or isinstance(error, UserError | MemoryError):
                        raise  # it never worked, or it is for the user to mend
                    self.monitor.on_warning(f"step {state.step}: no score: {type(error).__name__}: {error}")
                    said = {_FAILED: 1.0}
            scores = self.ranks.hear(said)
        if _INTERRUPTED in scores:
            return
        state.costs.update(self.ranks.hear({"evaluate": self.clock() - began}))
        state.evaluated = state.step
        best = _FAILED not in scores and self._judge(scores)
        if self.evaluate is not None and _FAILED not in scores:
            epoch, _ = self.source.where(state.step)
            self.monitor.on_evaluation(
                EvaluationReport(state.step, epoch, self._now(), dict(scores), state.metric or "", best)
            )
        if best and self.save_best is not None:
            state.best_waits = True
        else:
            self._plan_evaluation()

    def _keep_best(self) -> None:
        """Write the model that was just found to be the best."""
        assert self.save_best is not None
        began = self.clock()
        if self.ranks.leads:
            with self._as_used():
                self.save_best(self.model)
        self.state.costs.update(self.ranks.hear({"save_best": self.clock() - began}))
        self.state.best_waits = False
        self._plan_evaluation()

    def _checkpoint_before_best(self) -> bool:
        """Under minutes a run that was killed does not repeat itself: what it takes for the best must be on the disk before the
        model is, or a model might stay there of which it knows nothing."""
        return self.settings.minutes is not None and self._ended is None and self._saved_step != self.state.step

    def _keep_last_if_none_is_best(self) -> None:
        """A run of which no score could be computed leaves a model all the same."""
        if self.evaluate is None or self.save_best is None or self.state.best_step is not None:
            return
        self.monitor.on_warning("no evaluation gave a score: the model that is kept is that of the last step")
        self.state.best_step = self.state.step
        self._keep_best()

    @contextlib.contextmanager
    def _as_used(self) -> Iterator[None]:
        """The model as it is evaluated and saved: with the averaged weights, if any, in eval mode; training does not notice."""
        with self.average.in_place(), _undisturbed(self.model), torch.no_grad():
            yield

    def _judge(self, scores: Mapping[str, float]) -> bool:
        """True where the model is the best so far. With nothing to evaluate the newest is."""
        state = self.state
        if self.evaluate is None:
            return True
        if state.metric is None:
            state.metric = self.settings.metric if self.settings.metric != "auto" else next(iter(scores), "")
        if state.metric not in scores and not state.best:
            raise TrainingError(
                f"training.metric is {state.metric!r}, which evaluation does not give",
                allowed=f"it gives: {', '.join(scores)}",
            )
        score = scores.get(state.metric, math.nan)
        if not math.isfinite(score):
            self.monitor.on_warning(f"step {state.step}: the dev score {state.metric} is {score}: not the best model")
        sign = -1.0 if state.metric in LOWER_IS_BETTER else 1.0
        best = math.isfinite(score) and (not state.best or sign * score > sign * state.best[state.metric])
        if best:
            state.best, state.best_step = _finite(scores), state.step
        state.evaluations_since_best = 0 if best else state.evaluations_since_best + 1
        return best

    def _plan_evaluation(self) -> None:
        state, settings = self.state, self.settings
        interval = FIRST_EVALUATION
        if settings.minutes is not None:
            cost = sum(state.costs.get(name, 0.0) for name in ("evaluate", "save_best"))
            interval = max(interval, cost / (EVALUATION_SHARE * 60 * settings.minutes))
            if state.progress < 0.5:
                interval = min(
                    interval, 0.5
                )  # the cost of the first, of a model that babbles, says little about the last
        mark = round(state.next_evaluation + interval, 9)
        if mark <= state.progress:
            mark = state.progress + interval
        state.next_evaluation = mark if mark < 1 - 0.3 * FIRST_EVALUATION else 2.0  # the last one is always due

    # --- Time --------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self.clock() - self._origin

    def _agree(self) -> bool:
        """All ranks go by the clock of rank 0, and stop together. Returns whether to stop."""
        stop = self.signals.received is not None
        if self.ranks.world == 1:
            self.state.elapsed = self._now()
        else:
            numbers = {"stop": float(stop)}
            if self.ranks.leads:
                numbers |= {"elapsed": self._now(), "step_seconds": self._step_seconds}
            numbers = self.ranks.add_named(numbers)
            self.state.elapsed, stop, self._step_seconds = (
                numbers["elapsed"],
                numbers["stop"] > 0,
                numbers["step_seconds"],
            )
        self.state.progress = max(self.state.progress, self._progress(self.state.elapsed))
        return stop

    def _reserve(self) -> float:
        """Seconds that the end of the run needs: the last evaluation and what is saved, going by the last ones."""
        return sum(self.state.costs.values())

    def _progress(self, elapsed: float) -> float:
        """0 … 1 by whichever limit is nearest."""
        state, settings = self.state, self.settings
        shares = [0.0]
        if settings.steps is not None:
            shares.append(state.step / settings.steps)
        if settings.tokens is not None:
            shares.append(state.tokens / settings.tokens)
        if settings.minutes is not None:
            usable = 60 * settings.minutes - self._reserve()
            shares.append(elapsed / usable if usable > 0 else 1.0)
        return min(1.0, max(shares))

    def _limit_reached(self) -> str | None:
        state, settings = self.state, self.settings
        if settings.steps is not None and state.step >= settings.steps:
            return "steps"
        if settings.tokens is not None and state.tokens >= settings.tokens:
            return "tokens"
        if settings.minutes is not None:
            end = 60 * settings.minutes - self._reserve()
            if state.step > 0 and state.elapsed + self._step_seconds / 2 >= end:
                return "minutes"
        if settings.early_stop is not None and state.evaluations_since_best >= settings.early_stop:
            return "early stop"
        return None

    # --- Checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        state, every = self.state, self.settings.checkpoint_every
        if state.step == 0 or state.step == self._saved_step:
            return False
        if every != "auto":
            return state.step % every == 0
        if state.evaluated == state.step:
            return True  # so that what is kept as the best, and what a resumed run takes for the best, are the same
        pause = max(CHECKPOINT_SECONDS, state.costs.get("checkpoint", 0.0) / CHECKPOINT_SHARE)
        return state.elapsed - self._saved_at >= pause

    def _save(self) -> None:
        began = self.clock()
        if (name := self._not_finite()) is not None:  # the same on every rank
            raise TrainingError(
                f"step {self.state.step}: {name} is not finite any more, so it is not saved",
                allowed="an update was too large; the last checkpoint is from before and whole",
                fix="begin again with a lower training.lr",
            )
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        found = {}
        for name, one in generators.items():
            on = self.device if self.device.type == "cuda" else one.device
            for rank, state in enumerate(self.ranks.collect(one.to(on))):
                found[f"{name}.{rank}"] = state
        if self.ranks.leads:
            assert self.log is not None
            assert self.ledger is not None
            self.ledger.sync()
            self.state.log_position = self.log.position
            self.state.average_updates = self.average.updates
            tensors = {
                "weights": self._kept(),
                "optimizer": self.optimizer.state(),
                "averages": self.average.state(),
                "random": found,
            }
            numbers = {
                "format": 1,
                "state": asdict(self.state),
                "settings": self.settings.model_dump(mode="json"),
                "batches": self.source.fingerprint,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "ranks": self.ranks.world,
            }
            if self.settings.lora is not None:
                numbers["base"] = signature(self.model, self.parameters)
            self.checkpoints.save(self.state.step, tensors, numbers)
        self.ranks.wait()
        self.state.costs["checkpoint"] = self.ranks.hear({"": self.clock() - began})[""]
        self._saved_step, self._saved_at = self.state.step, self.state.elapsed

    def _kept(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the model: all of it; beside adapters, whose base is on the disk, only what is learnt."""
        kept = dict(self.model.named_parameters()) if self.settings.lora is None else self.parameters
        return {**kept, **dict(self.model.named_buffers())}

    def _begin(self, *, resume: bool) -> None:
        """Restore the newest checkpoint, or make sure that one will fit."""
        if self.ranks.leads:
            self.checkpoints.sweep()
        self.ranks.wait()
        checkpoint = self.checkpoints.latest(self.monitor.on_warning) if resume else None
        if checkpoint is not None:
            self._restore(checkpoint)
            return
        if self.log is not None and resume:
            self.monitor.on_message("no checkpoint yet: beginning at step 0")
            self.log.cut(0, 0)
        if self.ledger is not None and resume:
            self.ledger.cut(0)
        weights = sum(parameter.nbytes for parameter in self.parameters.values())
        copies = 3 + (self.settings.average != "none")  # weights, AdamW's two moments
        if self.ranks.leads:
            require_space(self.run.path, copies * weights)

    def _restore(self, checkpoint: Checkpoint) -> None:
        numbers = checkpoint.numbers
        where = checkpoint.folder
        self._compare(numbers, where)
        warned = self.state.warnings
        self.state = State(**numbers["state"])
        self.state.warnings += warned
        self.monitor.warnings = self.state.warnings
        kept = checkpoint.tensors
        own = self._kept()
        found = kept["weights"]
        wrong = sorted(
            name for name in own.keys() | found.keys()
            if name not in own or name not in found or own[name].shape != found[name].shape
        )  # fmt: skip
        if wrong:
            raise CheckpointError(f"is of another model: {wrong[0]} differs", where=where)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(found[name])
        self.optimizer.load(kept["optimizer"])
        self.average.load(kept["averages"], self.state.average_updates)
        states = kept["random"]
        if f"cpu.{self.ranks.rank}" in states:
            torch.set_rng_state(states[f"cpu.{self.ranks.rank}"])
        if self.device.type == "cuda" and f"cuda.{self.ranks.rank}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{self.ranks.rank}"], self.device)
        self._saved_step = self.state.step
        if self.state.finished is not None:
            return
        if self.log is not None and not self.log.cut(self.state.log_position, self.state.step):
            self.monitor.on_warning(
                f"{self.run.metrics} had lost lines: the curves have a gap before step {self.state.step}"
            )
        if self.ledger is not None and not self.ledger.cut(self.state.step):
            self.monitor.on_warning(f"{self.run.ledger} had lost entries: what some steps used is not known for certain")
        self.monitor.on_message(f"going on from step {self.state.step} ({where})")

    def _compare(self, numbers: Mapping[str, Any], where: Any) -> None:
        """Refuse to go on with another plan; say what may change the last bits."""
        if numbers["format"] != 1:
            raise CheckpointError(f"has format {numbers['format']}, this version reads 1", where=where)
        now, then = self.settings.model_dump(mode="json"), numbers["settings"]
        fields = type(self.settings).model_fields
        for name in now:
            if name in FREE:
                continue
            before = then.get(name, fields[name].default)  # an option that is newer than the run
            if now[name] != before:
                raise CheckpointError(
                    f"training.{name} was {before} when the run began and is {now[name]}",
                    where=where,
                    fix="a run goes on with the plan it was begun with: put it back, or begin another run",
                )
        if numbers["batches"] != self.source.fingerprint:
            raise CheckpointError("the data is not what the run was begun with", where=where, fix="begin another run")
        if self.settings.lora is not None and numbers["base"] != signature(self.model, self.parameters):
            raise CheckpointError(
                "the model under the adapters is not the one that the run was begun with", where=where,
                fix="give that one with --init",
            )  # fmt: skip
        here = {"torch": torch.__version__, "threads": torch.get_num_threads(), "ranks": self.ranks.world}
        for name, value in here.items():
            if numbers[name] != value:
                self.monitor.on_warning(
                    f"the run was begun with {name} {numbers[name]} and goes on with {value}: not bit for bit the same"
                )

    # --- What is told ------------------------------------------------------------------------------------------------

    def _start(self) -> RunStart:
        limits = self.settings
        size = sum(parameter.numel() for parameter in self.parameters.values())
        return RunStart(self.state.step, limits.steps, limits.minutes, limits.tokens, size, limits.rates)

    def _report_rest(self) -> None:
        if self.state.sums.get("seconds", 0.0) > 0:
            self._report()

    def _report(self) -> None:
        state = self.state
        sums, state.sums = state.sums, {"tokens_before": state.tokens}
        means = {
            name.removesuffix(".count"): sums[name.removesuffix(".count")] / number
            for name, number in sums.items()
            if name.endswith(".count")
        }
        mean = sums.get("loss", 0.0) / sums["count"] if "count" in sums else math.nan
        loss = means.pop("nll", mean)
        if loss != mean:
            means["objective"] = mean
        epoch, fraction = self.source.where(state.step)
        elapsed = self._now()
        progress = max(state.progress, self._progress(elapsed))
        seconds = sums["seconds"]
        self.monitor.on_step(
            StepReport(
                step=state.step,
                epoch=epoch,
                epoch_fraction=fraction,
                loss=loss,
                lr=sums["lr"],
                grad_norm=sums.get("norm", math.nan),
                tokens=state.tokens,
                tokens_per_second=sums["tokens"] / seconds if seconds > 0 else 0.0,
                elapsed=elapsed,
                progress=progress,
                remaining=self._remaining(elapsed, progress),
                metrics=means,
            )
        )

    def _remaining(self, elapsed: float, progress: float) -> float | None:
        if self.settings.minutes is not None:
            by_clock = max(0.0, 60 * self.settings.minutes - elapsed)
            if self.settings.steps is None and self.settings.tokens is None:
                return by_clock
        return elapsed * (1 - progress) / progress if progress > 0 else None

    def _look_for_spike(self, loss: float, batches: list[Batch | None]) -> None:
        """Warn of a loss six standard deviations above the running mean, at most once in a hundred steps."""
        spike, step = self.state.spike, self.state.step
        deviation = math.sqrt(spike["variance"])
        beyond = loss - spike["mean"] > SPIKE_SIGMAS * deviation
        if spike["n"] >= SPIKE_AFTER and deviation > 0 and beyond and step - spike["warned"] >= 100:
            spike["warned"] = step
            self.monitor.on_warning(
                f"step {step}: the loss jumped to {loss:.3f}, from {spike['mean']:.3f} before ({self._names(batches)})"
            )
        memory = min(SPIKE_MEMORY, spike["n"] / (spike["n"] + 1))
        difference = loss - spike["mean"]
        spike["mean"] += (1 - memory) * difference
        spike["variance"] = memory * (spike["variance"] + (1 - memory) * difference * difference)
        spike["n"] += 1

    def _result(self, *, already_finished: bool = False) -> TrainingResult:
        state = self.state
        if not already_finished:
            state.elapsed = self._now()
        assert state.finished is not None
        return TrainingResult(
            steps=state.step,
            seconds=state.elapsed,
            tokens=state.tokens,
            best=dict(state.best),
            best_step=state.best_step,
            stopped_because=state.finished,
            warnings=tuple(state.warnings),
            already_finished=already_finished,
        )

    def _batches_from(self, step: int) -> Iterator[list[Batch | None]]:
        while True:
            yield [self.source.batch(step, micro) for micro in range(self.settings.accumulate)]
            step += 1


_INTERRUPTED, _FAILED = "\0interrupted", "\0failed"


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards modes and generators as they were, so that looking at a model does not change its training."""
    modes = [(module, module.training) for module in model.modules()]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 (whoever uses it finds it unchanged)
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        torch.set_rng_state(generators[0])
        random.setstate(generators[1])
        np.random.set_state(generators[2])  # noqa: NPY002
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def _quiet_collector() -> Iterator[None]:
    """What lives already is not looked at again by Python's garbage collector at every few hundred tensors."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _finite(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if math.isfinite(score)}
