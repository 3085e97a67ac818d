"""How long ours takes to a peer's best score: one protocol for every pair of recipes.

    the peer at each rate, first seed ──> its best rate ──> that rate with the other seeds, in turns with ours:
    fresh runs that end after 1/4, 1/3, 1/2 … of the peer's wall-clock, and runs as long as the peer's

The goal is the best score that the peer reached at that rate with any seed; a share is reached when every seed of ours is as
good, and beside it stands whether the median is. Each run is a fresh process. Finished runs are kept, a JSON object a line,
and not repeated, unless the code or the data behind them changed.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import ROOT, Row, Watch, commit, disturbed, fingerprint, heading, wait_for_quiet

PEER = "peer"


@dataclasses.dataclass(frozen=True)
class Run:
    """One process to start. minutes: None for a peer that ends after so many steps. rate: None for a recipe's own."""

    who: str
    seed: int
    minutes: float | None
    rate: float | None = None

    def __str__(self) -> str:
        words = [self.who, f"seed {self.seed}"]
        words += [] if self.minutes is None else [f"{self.minutes:g} minutes"]
        words += [] if self.rate is None else [f"rate {self.rate:g}"]
        return ", ".join(words)


Start = Callable[[Run], Row]
"""Carries a run out. Returns "scores" by name, "seconds" of training, "params", "steps"."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One way in which we train. every_seed: else the first alone. shares: for shares of the peer's time too.

    at_their_rate: with the peer's best rate, for what is to differ from the peer in nothing but the engine.
    """

    name: str
    start: Start
    every_seed: bool = True
    shares: bool = True
    at_their_rate: bool = False


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is to be reached: the peer at a rate (None: its best), and in which shares of its wall-clock we try. target: the largest
    that is good enough."""

    name: str
    rate: float | None
    shares: tuple[float, ...]
    target: float


@dataclasses.dataclass(frozen=True)
class Terms:
    """What is compared, and by which score. where: what besides the code and the settings decides a run."""

    title: str
    metric: str
    higher_is_better: bool
    goals: Sequence[Goal]
    rates: Sequence[float]
    seeds: Sequence[int]
    minutes: float | None
    """Of the peer; None: as long as its steps take."""
    threads: int
    others: tuple[str, ...] = ()
    """Further scores to show."""
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings that a finished run must share to be taken for this one."""

    def better(self, a: float, b: float) -> bool:
        return a >= b if self.higher_is_better else a <= b

    def best(self, values: Sequence[float]) -> float:
        return max(values) if self.higher_is_better else min(values)


class Contest:
    """The plan, the finished runs, and how the next is started."""

    def __init__(
        self, terms: Terms, out: Path, *, peer: Start, sides: Sequence[Side], files: Sequence[Path], noisy: bool
    ) -> None:
        self.terms, self.out, self.noisy = terms, out, noisy
        self.peer, self.sides = peer, {side.name: side for side in sides}
        self.rows: list[Row] = []
        self.planned: list[Run] = []
        if out.exists():
            self.rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        source, peers = ROOT / "src/ciyuan", ROOT / "benchmarks/peers"
        own = [*sorted(source.rglob("*.py")), *sorted(source.rglob("*.yaml"))]
        self.fingerprints = {
            PEER: fingerprint([*files, *sorted(peers.glob("*.py"))]),
            "ours": fingerprint([*files, *own]),
        }

    def carry_out(self) -> list[Row]:
        """All of the plan, what is finished already left out; the rows in its order."""
        for run in self.plan():
            found = self.find(run)
            row = self.start(run) if found is None else found
            print(f"{self.terms.title}: {run}: {brief(row)}", file=sys.stderr, flush=True)
        finished = [self.find(run) for run in self.planned]
        return [row for row in finished if row is not None]

    def plan(self) -> Iterator[Run]:
        """The runs in order, each once; later ones depend on the results of earlier ones."""
        for run in self._plan():
            if run not in self.planned:
                self.planned.append(run)
                yield run

    def _plan(self) -> Iterator[Run]:
        terms = self.terms
        first = terms.seeds[0]
        fixed = [goal.rate for goal in terms.goals if goal.rate is not None]
        for rate in dict.fromkeys([*fixed, *terms.rates]):
            yield self._theirs(first, rate)
        for i, seed in enumerate(terms.seeds):
            theirs = [self._theirs(seed, rate) for rate in dict.fromkeys(self.rate_of(goal) for goal in terms.goals)]
            yield from in_turns(self._ours(seed), theirs) if i % 2 else in_turns(theirs, self._ours(seed))

    def _theirs(self, seed: int, rate: float) -> Run:
        return Run(PEER, seed, self.terms.minutes, rate)

    def _ours(self, seed: int) -> list[Run]:
        runs = []
        for side in self.sides.values():
            if not side.every_seed and seed != self.terms.seeds[0]:
                continue
            for goal in self.terms.goals:
                rate = self.rate_of(goal) if side.at_their_rate else None
                shares = (*goal.shares, 1.0) if side.shares else (1.0,)
                runs += [Run(side.name, seed, self.minutes_of(goal, share), rate) for share in shares]
        return runs

    def rate_of(self, goal: Goal) -> float:
        """The rate of the peer that is to be reached: a fixed one, or its best with the first seed."""
        if goal.rate is not None:
            return goal.rate
        first, terms = self.terms.seeds[0], self.terms
        found = {rate: self.score(self._theirs(first, rate)) for rate in terms.rates}
        best = terms.best(list(found.values()))
        return next(rate for rate, score in found.items() if score == best)

    def minutes_of(self, goal: Goal, share: float = 1.0) -> float:
        """So much of what the peer takes, going by its first seed, in minutes."""
        row = self.find(self._theirs(self.terms.seeds[0], self.rate_of(goal)))
        assert row is not None, "planned runs are done in order"
        return round(share * (self.terms.minutes or row["seconds"] / 60), 3)

    def score(self, run: Run) -> float:
        row = self.find(run)
        assert row is not None, "planned runs are done in order"
        return float(row["scores"][self.terms.metric])

    def scores(self, who: str, minutes: float | None, rate: float | None = None) -> list[float]:
        """Of all seeds that have run."""
        runs = [run for run in self.planned if (run.who, run.minutes, run.rate) == (who, minutes, rate)]
        return [self.score(run) for run in runs if self.find(run) is not None]

    def find(self, run: Run) -> Row | None:
        """The newest finished run that is this one, by this code on this data with these settings."""
        wanted = self.identity(run)
        for row in reversed(self.rows):
            if all(row.get(key) == value for key, value in wanted.items()):
                return row
        return None

    def identity(self, run: Run) -> Row:
        terms = self.terms
        return {
            "contest": terms.title, **dataclasses.asdict(run), "threads": terms.threads, **terms.asked,
            "fingerprint": self.fingerprints[PEER if run.who == PEER else "ours"],
        }  # fmt: skip

    def start(self, run: Run) -> Row:
        """Start it, wait for it, keep what came of it."""
        machine = wait_for_quiet(self.noisy)
        watch, began = Watch(), time.perf_counter()
        found = self.peer(run) if run.who == PEER else self.sides[run.who].start(run)
        wall = round(time.perf_counter() - began, 1)
        row = self.identity(run) | found | {"wall_seconds": wall, "machine": machine | watch.read(), "commit": commit()}
        self.rows.append(row)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return row


def in_turns(first: Sequence[Run], second: Sequence[Run]) -> list[Run]:
    """One of each, as long as there are both."""
    both = min(len(first), len(second))
    turns = [run for pair in zip(first, second, strict=False) for run in pair]
    return [*turns, *first[both:], *second[both:]]


def brief(row: Row) -> str:
    """A finished run in a line."""
    scores = ", ".join(f"{name} {value:.4g}" for name, value in row["scores"].items())
    return f"{scores}; {row['params'] / 1e6:.2f}M parameters, {row['wall_seconds']:.0f} s in all{disturbed(row)}"


# The report


def report(contest: Contest, rows: Sequence[Row], note: str) -> list[str]:
    """The table of all runs, and for each goal what share of the peer's wall-clock reaches it. note: how it was made."""
    terms = contest.terms
    names = [terms.metric, *terms.others]
    shown = [name.replace("_", " ") for name in names]
    columns = ["who", "rate", "minutes", "seed", "parameters", "steps", *shown]
    columns += ["seconds in all", "load before", "others", "commit"]
    lines = [
        f"## {terms.title}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"{note} {heading(rows[0]['machine'], terms.threads)}.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in rows:
        machine, share = row["machine"], row["machine"].get("others_share")
        scores = " | ".join(f"{row['scores'][name]:.4g}" for name in names)
        rate = "recipe" if row["rate"] is None else format(row["rate"], "g")
        lines.append(
            f"| {row['who']} | {rate} | {row['minutes'] or row['seconds'] / 60:.2f} | {row['seed']} | {row['params'] / 1e6:.2f}M | "
            f"{row['steps']} | {scores} | {row['wall_seconds']:.0f} | {machine['load_before'][0]} | "
            f"{'unknown' if share is None else format(share, '.0%')} | {row['commit']} |"
        )
    lines.append("")
    for goal in terms.goals:
        lines += conclusions(contest, goal)
    bad = [row for row in rows if disturbed(row)]
    if bad:
        lines.append(
            f"- {len(bad)} of {len(rows)} runs were disturbed by other work on the machine: their minutes were worth less"
        )
    return lines


def conclusions(contest: Contest, goal: Goal) -> list[str]:
    terms = contest.terms
    rate = contest.rate_of(goal)
    theirs = contest.scores(PEER, terms.minutes, rate)
    best, name = terms.best(theirs), terms.metric.replace("_", " ")
    whole = contest.minutes_of(goal)
    lines = [
        f"- {goal.name} (rate {rate:g}, {whole:g} minutes): {name} {spread(theirs)}; **its best, {best:.4g}, is the goal**"
    ]
    if goal.rate is None and len(terms.rates) > 1 and rate in (min(terms.rates), max(terms.rates)):
        lines.append(
            f"  - its best rate is at the edge of those that were tried: it may have a better one beyond {rate:g}"
        )
    for side in contest.sides.values():
        own_rate = rate if side.at_their_rate else None
        for share in sorted({*goal.shares, 1.0} if side.shares else {1.0}):
            ours = contest.scores(side.name, contest.minutes_of(goal, share), own_rate)
            if not ours:
                continue
            reached = sum(terms.better(score, best) for score in ours)
            median = "reached" if terms.better(statistics.median(ours), best) else "not reached"
            middle = "reached" if terms.better(statistics.median(ours), statistics.median(theirs)) else "not reached"
            text = f"{name} {spread(ours)}; the goal by {reached} of {len(ours)}, by the median {median}"
            text += f"; the peer's median {middle}"
            bold = "**" if reached == len(ours) and share <= goal.target else ""
            lines.append(f"  - {side.name}, {share:.3g} of its wall-clock: {bold}{text}{bold}")
    sizes = {row["who"]: row["params"] for row in contest.rows if row["contest"] == terms.title}
    ratios = {side: sizes[side] / sizes[PEER] for side in contest.sides if side in sizes}
    return lines + [
        f"  - {side} has {ratio:.2f}× the peer's parameters" for side, ratio in ratios.items() if abs(ratio - 1) > 0.1
    ]


def spread(values: Sequence[float]) -> str:
    """The median, and in brackets the lowest and the highest."""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g}, {len(values)} seeds)"
