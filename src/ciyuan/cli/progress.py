"""A run as it goes on: a live line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ciyuan.cli.streams import printable, say
from ciyuan.training.monitor import EvaluationReport, RunStart, Silent, StepReport, TrainingResult

if TYPE_CHECKING:
    from rich.progress import Progress

    from ciyuan.data.previews import Preview

EVERY = 10.0
"""Seconds between lines where there is no terminal."""
HOLD = 10.0
"""Seconds after the start from which everything is said at once."""


def monitor_for_here() -> Lines:
    """What suits stderr: live on a terminal, else lines."""
    return Live() if sys.stderr.isatty() else Lines()


class Lines(Silent):
    """A line every ten seconds and one for each evaluation, for logs and pipes.

    What is said before training begins waits a moment: if the run is then refused, the reason stands alone.
    """

    def __init__(self, every: float = EVERY) -> None:
        self.every = every
        self._last = self._created = time.monotonic()
        self._held: list[str] | None = []

    def on_start(self, start: RunStart) -> None:
        self._release()
        say(begun(start))

    def on_step(self, report: StepReport) -> None:
        now = time.monotonic()
        if now - self._last >= self.every or report.progress >= 1.0:
            self._last = now
            say(f"{report.progress:4.0%}  {' · '.join(facts(report))}")

    def on_evaluation(self, report: EvaluationReport) -> None:
        say(f"      {evaluated(report)}")

    def on_message(self, text: str) -> None:
        if self._held is None:
            say(printable(text))
        else:
            self._held.append(printable(text))
            if time.monotonic() - self._created > HOLD:
                self._release()

    def on_preview(self, examples: Sequence[Preview]) -> None:
        colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        for line in previewed(examples, colours=colours):
            if self._held is None:
                say(line)
            else:
                self._held.append(line)

    def on_warning(self, text: str) -> None:
        self._release()
        say(f"warning: {printable(text)}")

    def on_end(self, result: TrainingResult) -> None:
        self.close()
        say(ended(result))

    def close(self) -> None:
        """Say what is left to say."""
        self._release()

    def abandon(self) -> None:
        """The run is refused: what was held back does not matter any more."""
        if self._held is not None:
            self._held.clear()
        self.close()

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for line in held:
            say(line)


class Live(Lines):
    """One line that moves: bar, step, loss, speed, time left, last score; what else is said scrolls above it."""

    def __init__(self) -> None:
        super().__init__()
        self._held = None
        self._progress: Progress | None = None
        self._task: Any = None
        self._score = ""

    def on_start(self, start: RunStart) -> None:
        super().on_start(start)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._progress = Progress(
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TextColumn("{task.fields[score]}", style="bold", markup=False),
            console=Console(stderr=True, highlight=False),
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=1.0, facts="starting", score="")
        self._progress.start()

    def on_step(self, report: StepReport) -> None:
        if self._progress is not None:
            self._progress.update(
                self._task, completed=report.progress, facts=" · ".join(facts(report)), score=self._score
            )

    def on_evaluation(self, report: EvaluationReport) -> None:
        self._score = scores_as_text(dict(list(report.scores.items())[:1]))
        self._above(evaluated(report))

    def on_message(self, text: str) -> None:
        self._above(printable(text))

    def on_warning(self, text: str) -> None:
        self._above(f"warning: {printable(text)}")

    def close(self) -> None:
        """The terminal as it was, however the run went."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _above(self, text: str) -> None:
        if self._progress is None:
            say(text)
        else:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


PREVIEW_HEAD, PREVIEW_TAIL = 50, 8
"""Tokens of an example that are shown, from its beginning and from its end: enough to see that it is what was meant."""
COLOURS = {"supervised": "\x1b[1;32m", "masked": "\x1b[1;35m", "special": "\x1b[2m", "context": ""}


def previewed(examples: Sequence[Preview], *, colours: bool) -> list[str]:
    """Examples as the model sees them, a line each, what is learnt in colour, or without colours in « ».

    >>> previewed([[("<s>", "special"), ("a", "context"), ("b", "supervised")]], colours=False)
    ['as the model sees it: «learnt», the rest is only read', '  <s> a «b»']
    """
    if not examples:
        return []
    mark = f"{COLOURS['supervised']}learnt\x1b[0m" if colours else "«learnt»"
    lines = [f"as the model sees it: {mark}, the rest is only read"]
    for example in examples:
        shown = []
        left_out = len(example) - PREVIEW_HEAD - PREVIEW_TAIL
        if left_out > 0:
            cut: Preview = [(f"… {left_out:,} more …", "special")]
            example = [*example[:PREVIEW_HEAD], *cut, *example[-PREVIEW_TAIL:]]
        for kind, run in itertools.groupby(example, key=lambda one: one[1]):
            text = " ".join(printable(token) for token, _ in run)
            if colours and COLOURS[kind]:
                text = f"{COLOURS[kind]}{text}\x1b[0m"
            elif not colours and kind in ("supervised", "masked"):
                text = f"«{text}»"
            shown.append(text)
        lines.append("  " + " ".join(shown))
    return lines


def begun(start: RunStart) -> str:
    limits = [f"{start.minutes:g} minutes" if start.minutes else "", f"{start.steps:,} steps" if start.steps else "",
              f"{start.tokens:,} tokens" if start.tokens else ""]  # fmt: skip
    going_on = f", going on from step {start.step:,}" if start.step else ""
    rates = ", ".join(f"{role} {rate:g}" for role, rate in start.rates.items())
    by = f"by {'Muon' if start.optimizer == 'muon' else 'AdamW'} at {rates}"
    return f"training {start.parameters:,} parameters for {' or '.join(filter(None, limits))}{going_on}, {by}"


def facts(report: StepReport) -> list[str]:
    """What a person wants to see of a step, in short."""
    found = [f"step {report.step:,}", f"loss {report.loss:.3f}", f"{report.tokens_per_second:,.0f} tokens/s"]
    if report.of_ceiling is not None:
        found.append(f"{report.of_ceiling:.0%} of peak")
    return found if report.remaining is None else [*found, f"{clock(report.remaining)} left"]


def evaluated(report: EvaluationReport) -> str:
    best = "  (the best so far, kept)" if report.best else ""
    return f"step {report.step:,}: {scores_as_text(report.scores)} on held-out examples{best}"


def scores_as_text(scores: Mapping[str, float]) -> str:
    from ciyuan.report import spelt

    digits = {"nll": 3, "bits_per_byte": 3}
    return "  ".join(f"{spelt(name)} {value:.{digits.get(name, 1)}f}" for name, value in scores.items())


def ended(result: TrainingResult) -> str:
    if result.already_finished:
        return f"nothing left to train: the run ended at step {result.steps:,}"
    done = f"trained {result.steps:,} steps on {result.tokens:,} tokens in {clock(result.seconds)}"
    return f"{done} (ended by: {result.stopped_because})"


def clock(seconds: float) -> str:
    """
    >>> clock(75), clock(3725)
    ('1:15', '1:02:05')
    """
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
