"""The one training loop.

    batches ──> loss (sum, count) ──> gradient ──> ÷ count of all micro-batches and ranks ──> clip ──> optimiser ──> average
       ▲                                                                                                             │
       └── evaluate, keep the best · save a checkpoint · stop: only between two steps, each when it is due ──────────┘

What a run knows at step N is a pure function of its settings, its data and N, apart from what the clock decides under `minutes`;
so a run that was killed anywhere goes on from its last checkpoint bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ciyuan.batch import Batch
from ciyuan.data.loader import Loader
from ciyuan.errors import Stopped, TrainingError, UserError
from ciyuan.model.cost import Cost
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.objective import Objective
from ciyuan.training import tally, timing
from ciyuan.training.averaging import Average
from ciyuan.training.checkpoint import Checkpoint, require_space
from ciyuan.training.distributed import Ranks
from ciyuan.training.judging import judge
from ciyuan.training.ledger import Ledger, mark
from ciyuan.training.monitor import (
    EvaluationReport,
    Monitor,
    RunLog,
    RunStart,
    Several,
    TrainingResult,
)
from ciyuan.training.optimizers import build_optimizer
from ciyuan.training.ramps import batches_at, stage_of
from ciyuan.training.rates import Learner, by_role, resolve
from ciyuan.training.run import RunFolder
from ciyuan.training.schedules import rate
from ciyuan.training.settings import TrainingSettings
from ciyuan.training.signals import Interrupted, Signals
from ciyuan.training.snapshot import Snapshot
from ciyuan.training.source import Ahead, Change, Examples, LoaderSource, Source
from ciyuan.training.spikes import jumped
from ciyuan.training.state import State
from ciyuan.training.undisturbed import quiet_collector, undisturbed

Evaluate = Callable[[Transformer], Mapping[str, float]]
SaveBest = Callable[[Transformer], None]


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
    change: Change | None = None,
    monitor: Monitor | None = None,
    resume: bool = False,
    spent: float = 0.0,
    ceiling: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train a model in place, on the device where it is, until a limit of the settings is reached.

    examples: example numbers to examples, e.g. a token store's `examples`. evaluate: scores of the model, by name, the same for
    the same weights. save_best: keeps the model, whenever it is the best so far (with nothing to evaluate: as often, and at
    the end). Both find the averaged weights in the model, if any, and eval mode; random generators are put back after them.
    change: of examples, each time before they are collated.
    resume: go on from the run's newest whole checkpoint, or begin where there is none; a finished run is left as it is.
    spent: seconds of learning before the first step, a warm start's, which count towards the run's minutes.
    ceiling: of this machine's matrix products (`machine.product_speed`), for the share of it that the reports give.

    When it returns the model has the weights of the last step (not the best, not the averaged). The process is seeded.
    Raises Stopped after SIGTERM or SIGINT, with a checkpoint written; TrainingError where nothing can be learnt; DiskError;
    CheckpointError where the checkpoints are damaged or of another run.
    """
    source = LoaderSource(
        objective.collate, examples, loader, settings, change=change, asks_by_progress=getattr(objective, "moves", False)
    )
    return Training(
        model, objective.loss, source, settings, run=run, evaluate=evaluate, save_best=save_best, monitor=monitor,
        spent=spent, ceiling=ceiling, clock=clock,
    ).go(resume=resume)  # fmt: skip


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
        ceiling: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if evaluate is None and settings.early_stop is not None:
            raise TrainingError("early_stop needs something to evaluate", fix="give data.dev, or leave early_stop out")
        settings = resolve(settings, Learner.of(model.config))
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
        self.cost, self.ceiling = Cost.of(model), ceiling
        self.optimizer = build_optimizer(groups, names, settings)
        self.rates = {role: rate for role, rate in by_role(settings).items() if groups.get(role)}
        self.average = Average(self.parameters, settings)
        self.snapshot = Snapshot(
            model, self.parameters, self.optimizer, self.average, settings, ranks=self.ranks, batches=source.fingerprint
        )
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
            stack.callback(self.checkpoints.settle, self.monitor.on_warning)
            torch.manual_seed(self.settings.seed + self.ranks.rank)
            self.ranks.share([*self.model.parameters(), *self.model.buffers()])
            self._begin(resume=resume)
            if self.state.finished is not None:
                self.monitor.on_message(
                    f"this run is finished (step {self.state.step}, {self.state.finished}): nothing to do"
                )
                return self._result(already_finished=True)
            self.monitor.on_start(self._start())
            stack.enter_context(quiet_collector())
            stack.enter_context(self.signals)
            ahead = Ahead(self.source, self.state.batches, accumulate=self.settings.accumulate)
            stack.enter_context(ahead)
            self._origin = self.clock() - self.state.elapsed
            self._saved_at = self.state.elapsed
            if self.state.step == 0:
                self.state.next_evaluation = timing.first_evaluation(self._progress(self.state.elapsed))
            self._repeat(ahead)
            result = self._result()
            self.monitor.on_end(result)
            return result

    def _repeat(self, ahead: Ahead) -> None:
        """Between two steps one thing at a time, then look again: each takes time, and time decides."""
        while True:
            self.checkpoints.look()
            stop = self._agree()
            self._ended = self._ended or timing.limit_reached(self.state, self.settings, self._step_seconds)
            if stop:
                self._save()
                self.checkpoints.wait()
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
                self.checkpoints.wait()
                return
            elif timing.checkpoint_due(self.state, self.settings, saved_step=self._saved_step, saved_at=self._saved_at):
                self._save()
            else:
                stage = stage_of(self.state.progress)
                self._step(ahead.take(batches_at(self.settings, stage), stage), stage)

    def _step(self, batches: list[Batch | None], stage: int) -> None:
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
            self.ledger.add(fed, self.ranks.world, stage=stage, skipped=state.skipped_in_row > 0)
        for parameter in self.parameters.values():
            parameter.grad = None
        state.step += 1
        state.batches += len(batches)
        state.tokens += int(sums.pop("tokens"))
        if state.skipped_in_row == 0:
            self._look_for_spike(sums["loss"] / count, batches)
            self.average.update(self._progress(self._now()))
            tally.add(state, sums)
        seconds = self.clock() - began
        self._step_seconds = seconds if self._step_seconds == 0 else 0.9 * self._step_seconds + 0.1 * seconds
        lr = share * by_role(settings)["hidden" if settings.lora is None else "adapter"]
        tally.note_step(state, seconds=seconds, lr=lr, norm=norm)
        if state.step % settings.log_every == 0:
            self._report()

    def _gradient(self, batches: list[Batch | None]) -> dict[str, float]:
        """Leaves the gradient of the summed loss, over all micro-batches and ranks. Returns sums: loss, count, tokens, and what the
        objective measures as NAME and NAME.count."""
        self.model.train()
        kept: dict[str, list[Tensor | float]] = {"loss": []}
        sums: dict[str, float] = {"count": 0, "tokens": 0, "flops": 0, "mark": mark(batches)}
        for batch in batches:
            if batch is None or batch.count == 0:
                continue
            sums["tokens"] += batch.n_tokens
            sums["flops"] += self.cost.of_batch(batch)
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
        if (name := self.snapshot.not_finite()) is not None:
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

    def _names(self, batches: list[Batch | None]) -> str:
        """The examples of a step, those of all ranks, for a message. Every rank must ask."""
        own = [number for batch in batches if batch is not None for number in batch.examples]
        numbers = [int(number) for number in self.ranks.add_named({str(number): 1.0 for number in own})]
        shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
        return f"examples {shown}" if numbers else "its examples"

    # --- Evaluation --------------------------------------------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        if self.state.evaluated == self.state.step or (self.evaluate is None and self.save_best is None):
            return False
        return self._ended is not None or timing.evaluation_due(self.state, self.settings)

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
            epoch, _ = self.source.where(state.batches)
            self.monitor.on_evaluation(
                EvaluationReport(state.step, epoch, self._now(), dict(scores), state.metric or "", best)
            )
        if best and self.save_best is not None:
            state.best_waits = True
        else:
            state.next_evaluation = timing.next_evaluation(state, self.settings)

    def _keep_best(self) -> None:
        """Write the model that was just found to be the best."""
        assert self.save_best is not None
        began = self.clock()
        self.checkpoints.wait()
        if self.ranks.leads:
            with self._as_used():
                self.save_best(self.model)
        self.state.costs.update(self.ranks.hear({"save_best": self.clock() - began}))
        self.state.best_waits = False
        self.state.next_evaluation = timing.next_evaluation(self.state, self.settings)

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
        with self.average.in_place(), undisturbed(self.model), torch.no_grad():
            yield

    def _judge(self, scores: Mapping[str, float]) -> bool:
        """True where the model is the best so far. With nothing to evaluate the newest is."""
        if self.evaluate is None:
            return True
        best = judge(self.state, scores, self.settings.metric)
        metric = self.state.metric or ""
        if not math.isfinite(score := scores.get(metric, math.nan)):
            self.monitor.on_warning(f"step {self.state.step}: the dev score {metric} is {score}: not the best model")
        return best

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

    def _progress(self, elapsed: float) -> float:
        return timing.progress_at(self.state, self.settings, elapsed)

    # --- Checkpoints -------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """A checkpoint, on the disk once this returns, or in the background once `checkpoints.wait` does. The first of a run is
        never left to the background: it tells what the last one, which is waited for, will take."""
        began = self.clock()
        background = self.settings.save_in_background and "checkpoint" in self.state.costs
        if (name := self.snapshot.not_finite()) is not None:  # the same on every rank
            raise TrainingError(
                f"step {self.state.step}: {name} is not finite any more, so it is not saved",
                allowed="an update was too large; the last checkpoint is from before and whole",
                fix="begin again with a lower training.lr",
            )
        tensors = self.snapshot.tensors()
        if self.ranks.leads:
            assert self.log is not None
            assert self.ledger is not None
            self.ledger.sync()
            self.state.log_position = self.log.position
            self.state.average_updates = self.average.updates
            save = self.checkpoints.save_in_background if background else self.checkpoints.save
            save(self.state.step, tensors, self.snapshot.numbers(self.state))
        self.ranks.wait()
        if not background:
            self.state.costs["checkpoint"] = self.ranks.hear({"": self.clock() - began})[""]
        self._saved_step, self._saved_at = self.state.step, self.state.elapsed

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
        for doubt in self.snapshot.compare(checkpoint):
            self.monitor.on_warning(doubt)
        warned = self.state.warnings
        self.state = self.snapshot.restore(checkpoint)
        self.state.warnings += warned
        self.monitor.warnings = self.state.warnings
        self._saved_step = self.state.step
        if self.state.finished is not None:
            return
        if self.log is not None and not self.log.cut(self.state.log_position, self.state.step):
            self.monitor.on_warning(
                f"{self.run.metrics} had lost lines: the curves have a gap before step {self.state.step}"
            )
        if self.ledger is not None and not self.ledger.cut(self.state.step):
            self.monitor.on_warning(
                f"{self.run.ledger} had lost entries: what some steps used is not known for certain"
            )
        self.monitor.on_message(f"going on from step {self.state.step} ({checkpoint.folder})")

    # --- What is told ------------------------------------------------------------------------------------------------

    def _start(self) -> RunStart:
        limits = self.settings
        size = sum(parameter.numel() for parameter in self.parameters.values())
        return RunStart(
            self.state.step, limits.steps, limits.minutes, limits.tokens, size, limits.optimizer, self.rates
        )

    def _report_rest(self) -> None:
        if not tally.is_empty(self.state):
            self._report()

    def _report(self) -> None:
        state, elapsed = self.state, self._now()
        progress = max(state.progress, self._progress(elapsed))
        remaining = timing.remaining(self.settings, elapsed, progress)
        place, ceiling = self.source.where(state.batches), self.ceiling and self.ceiling * self.ranks.world
        self.monitor.on_step(
            tally.take(state, place=place, elapsed=elapsed, progress=progress, remaining=remaining, ceiling=ceiling)
        )

    def _look_for_spike(self, loss: float, batches: list[Batch | None]) -> None:
        before, step = self.state.spike["mean"], self.state.step
        if jumped(self.state.spike, loss, step):
            self.monitor.on_warning(
                f"step {step}: the loss jumped to {loss:.3f}, from {before:.3f} before ({self._names(batches)})"
            )

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


_INTERRUPTED, _FAILED = "\0interrupted", "\0failed"
