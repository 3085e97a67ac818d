"""Translation from scratch in minutes: ciyuan against `transformers`' MarianMTModel, on the same bytes, threads and machine.

    python benchmarks/translation.py                      # the whole: about two hours of a quiet machine
    python benchmarks/translation.py --only ours --seeds 1
    python benchmarks/translation.py --minutes 0.2 --limit 20 --noisy --out /tmp/runs.jsonl    # does everything run?

The plan, with M = --minutes. The peer (benchmarks/peers/marian.py) is tuned over --rates, M minutes each on the first seed, by
the chrF that it is judged by; then, at its best rate, trained for 2M minutes and scored at M and at 2M, once for each seed. Ours
is trained as a user would, `ciyuan train examples/demo.yaml`, for M minutes and again, from nothing, for --quick, a fifth of the
peer's 2M, once for each seed. Both train on one file and are scored by beam search on another, which ours never sees and which the
peer's rate was chosen on. Minutes are minutes of training for both; whole seconds, preparation included, stand beside them.

Each run is a fresh process; ours and the peer take turns. Finished runs are kept in .bench/translation/runs.jsonl and not
repeated, unless the code or the data behind them changed. No run starts while something else uses the processor (--noisy starts it
all the same), and what else ran meanwhile is measured and shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from machine import (
    ROOT,
    Row,
    Watch,
    call,
    commit,
    disturbed,
    fingerprint,
    heading,
    publish,
    stored_parameters,
    wait_for_quiet,
)

RECIPE = ROOT / "examples/demo.yaml"
DATA = ROOT / "examples/data"
PEER = ROOT / "benchmarks/peers/marian.py"
LANGUAGES = {"en": "English", "zh": "Chinese", "de": "German"}
METRICS = {"chrF": "chrf", "BLEU": "bleu"}
"""As they are printed, and as `ciyuan evaluate --json` names them."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One process to start: who trains, for how long, from which seed; the peer's rate; the minutes to be scored at."""

    who: Literal["ours", "peer"]
    minutes: float
    seed: int
    rate: float | None = None
    score_at: tuple[float, ...] = ()

    def __str__(self) -> str:
        rate = "" if self.rate is None else f", rate {self.rate:g}"
        return f"{self.who}, {self.minutes:g} minutes, seed {self.seed}{rate}"


def main() -> int:
    settings = parse()
    bench = Bench(settings)
    for run in bench.plan():
        row = bench.find(run)
        if row is None:
            row = bench.start(run)
        print(f"{run}: {brief(row)}", file=sys.stderr, flush=True)
    publish(report(bench.rows_of_plan(), settings), write=settings.write)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--pair",
        default="en-zh",
        help="SOURCE-TARGET, whose files are help.PAIR.train.tsv.xz and .dev.tsv (default en-zh)",
    )
    add("--data", type=Path, default=DATA, help="the folder of those files (default: examples/data, which has en-zh)")
    add("--minutes", type=float, default=6.0, help="M (default 6)")
    add("--quick", type=float, help="minutes in which ours should reach the peer's score at 2M (default 0.4 M)")
    add("--seeds", type=numbers(int), default=[1, 2, 3], help="default 1,2,3")
    add(
        "--rates",
        type=numbers(float),
        default=[2.5e-4, 5e-4, 1e-3, 2e-3],
        help="the peer's, to choose from (default 2.5e-4,5e-4,1e-3,2e-3)",
    )
    add("--warmup", type=int, default=100, help="the peer's, in steps (default 100)")
    add("--init-std", type=float, default=None, help="the peer's (default d_model^-0.5; the library's own is 0.02)")
    add("--batch-tokens", type=int, default=4096, help="the peer's (default 4096)")
    add("--limit", type=int, default=None, help="score on the first pairs only, to try things out")
    add("--threads", type=int, default=os.cpu_count(), help="for both (default: one a core)")
    add("--beam", type=int, default=4, help="for both (default 4)")
    add("--params", type=int, default=None, help="the peer's size (default: ours, to the nearest number of layers)")
    add("--only", choices=("ours", "peer"), help="leave the other's runs out")
    add(
        "--out",
        type=Path,
        help="where finished runs are kept, a JSON object a line (default: .bench/translation/runs.jsonl, "
        ".bench/translation.PAIR/runs.jsonl for another pair)",
    )
    add("--accept-older", action="store_true", help="take finished runs of other versions of the code for done")
    add("--noisy", action="store_true", help="start even while something else uses the processor")
    add("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    settings = parser.parse_args()
    if settings.quick is None:
        settings.quick = round(0.4 * settings.minutes, 3)
    if settings.out is None:
        name = "translation" if settings.pair == "en-zh" else f"translation.{settings.pair}"
        settings.out = ROOT / f".bench/{name}/runs.jsonl"
    for path in files_of(settings):
        if not path.is_file():
            parser.error(f"{path} is not there: name the folder of the pair's files with --data")
    return settings


def files_of(settings: argparse.Namespace) -> tuple[Path, Path]:
    """What is trained on, and what is judged on."""
    folder = settings.data.resolve()
    return folder / f"help.{settings.pair}.train.tsv.xz", folder / f"help.{settings.pair}.dev.tsv"


def numbers(kind: type) -> Any:
    return lambda text: [kind(word) for word in text.split(",")]


class Bench:
    """The plan, the finished runs, and how the next is started."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.out: Path = settings.out
        self.rows: list[Row] = []
        self.planned: list[Run] = []
        if self.out.exists():
            self.rows = [json.loads(line) for line in self.out.read_text(encoding="utf-8").splitlines()]
        self.train, self.dev = files_of(settings)
        data = [self.train, self.dev]
        source = ROOT / "src/ciyuan"
        self.fingerprints = {
            "ours": fingerprint([*data, RECIPE, *sorted(source.rglob("*.py")), *sorted(source.rglob("*.yaml"))]),
            "peer": fingerprint([*data, PEER], version("transformers"), version("torch")),
        }
        self.params: int | None = settings.params
        self.source, self.target = settings.pair.split("-")
        if settings.limit is not None:
            lines = self.dev.read_text(encoding="utf-8").splitlines(keepends=True)
            self.dev = self.out.parent / f"dev.first-{settings.limit}.tsv"
            self.dev.parent.mkdir(parents=True, exist_ok=True)
            self.dev.write_text("".join(lines[: settings.limit]), encoding="utf-8")

    def plan(self) -> Iterator[Run]:
        """The runs in order; later ones depend on the results of earlier ones."""
        for run in self._plan():
            self.planned.append(run)
            yield run

    def _plan(self) -> Iterator[Run]:
        minutes, seeds, only = self.settings.minutes, self.settings.seeds, self.settings.only
        ours = {seed: [Run("ours", m, seed, score_at=(m,)) for m in (minutes, self.settings.quick)] for seed in seeds}
        if only != "peer":
            yield ours[seeds[0]][0]  # first, for its size
        if only != "ours":
            trials = [Run("peer", minutes, seeds[0], rate, score_at=(minutes,)) for rate in self.settings.rates]
            yield from trials
            best = max(trials, key=lambda run: self.score(run, minutes))
        for i, seed in enumerate(seeds):
            theirs = (
                [] if only == "ours" else [Run("peer", 2 * minutes, seed, best.rate, score_at=(minutes, 2 * minutes))]
            )
            mine = [] if only == "peer" else [run for run in ours[seed] if run not in self.planned]
            yield from [*mine[:1], *theirs, *mine[1:]] if i % 2 else [*theirs, *mine]

    def score(self, run: Run, minutes: float) -> float:
        row = self.find(run)
        assert row is not None, "planned runs are done in order"
        value = row["scores"][f"{minutes:g}"]["chrF"]
        assert isinstance(value, float)
        return value

    def find(self, run: Run) -> Row | None:
        """The newest finished run that is this one, by this code on this data with these settings."""
        wanted = self.identity(run)
        if self.settings.accept_older:
            del wanted["fingerprint"]
        for row in reversed(self.rows):
            if all(row.get(key) == value for key, value in wanted.items()):
                return row
        return None

    def identity(self, run: Run) -> Row:
        s = self.settings
        asked = dict(
            who=run.who, minutes=run.minutes, seed=run.seed, rate=run.rate, score_at=list(run.score_at),
            threads=s.threads, beam=s.beam, limit=s.limit, fingerprint=self.fingerprints[run.who],
        )  # fmt: skip
        if run.who == "peer":
            asked |= {"warmup": s.warmup, "init_std": s.init_std, "batch_tokens": s.batch_tokens}
        return asked

    def rows_of_plan(self) -> list[Row]:
        return [row for run in self.planned if (row := self.find(run)) is not None]

    def start(self, run: Run) -> Row:
        """Start it, wait for it, keep what came of it."""
        machine = wait_for_quiet(self.settings.noisy)
        watch = Watch()
        found = self._ours(run) if run.who == "ours" else self._peer(run)
        row = self.identity(run) | found | {"machine": machine | watch.read(), "commit": commit()}
        self.rows.append(row)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return row

    def _ours(self, run: Run) -> Row:
        """`ciyuan train` and `ciyuan evaluate`, as a user types them."""
        folder = self.out.parent / f"ours-{run.minutes:g}m-seed{run.seed}"
        shutil.rmtree(folder, ignore_errors=True)
        program = str(Path(sys.executable).with_name("ciyuan"))
        began = time.perf_counter()
        self._call(
            [program, "train", str(RECIPE.relative_to(ROOT)), "--out", str(folder),
             "--set", f"training.minutes={run.minutes:g}", "--set", f"training.seed={run.seed}",
             "--set", f"training.threads={self.settings.threads}", "--set", f"data.train={self.train}",
             "--set", f"data.source={self.source}", "--set", f"data.target={self.target}"]
        )  # fmt: skip
        trained = time.perf_counter()
        answer = json.loads(
            self._call(
                [program, "evaluate", str(folder), "--data", str(self.dev), "--json",
                 "--beam", str(self.settings.beam), "--threads", str(self.settings.threads)]
            )
        )  # fmt: skip
        self.params = self.params or stored_parameters(folder / "model.safetensors")
        return {
            "scores": {f"{run.minutes:g}": {name: answer["metrics"][key] for name, key in METRICS.items()}},
            "signatures": {name: answer["signatures"][key] for name, key in METRICS.items()},
            "params": stored_parameters(folder / "model.safetensors"),
            "wall_seconds": round(trained - began, 1),
            "scoring_seconds": round(time.perf_counter() - trained, 1),
        }

    def _peer(self, run: Run) -> Row:
        s = self.settings
        if self.params is None:
            sizes = [row["params"] for row in self.rows if row["who"] == "ours"]
            self.params = sizes[-1] if sizes else 6_500_000
        command = [
            sys.executable, str(PEER), "--train", str(self.train), "--dev", str(self.dev), "--target", self.target,
            "--lr", f"{run.rate:g}", "--seed", str(run.seed),
            "--score-at", ",".join(f"{minutes:g}" for minutes in run.score_at), "--params", str(self.params),
            "--threads", str(s.threads), "--beam", str(s.beam), "--warmup", str(s.warmup), "--batch-tokens", str(s.batch_tokens),
        ]  # fmt: skip
        if s.init_std is not None:
            command += ["--init-std", str(s.init_std)]
        began = time.perf_counter()
        moments = [json.loads(line) for line in self._call(command).splitlines()]
        scoring = sum(moment["scoring_seconds"] for moment in moments)
        last = moments[-1]
        return {
            "scores": {f"{moment['minutes']:g}": moment["metrics"] for moment in moments},
            "signatures": last["signatures"],
            **{name: last[name] for name in ("params", "layers", "steps", "epochs", "tokens", "samples")},
            "wall_seconds": round(time.perf_counter() - began - scoring, 1),
            "scoring_seconds": round(scoring, 1),
        }

    def _call(self, command: Sequence[str]) -> str:
        return call(command, log=self.out.parent / "last.log", threads=self.settings.threads)


# The report


def brief(row: Row) -> str:
    """A finished run in a line."""
    scores = "; ".join(
        f"at {minutes} min " + ", ".join(f"{name} {metrics[name]:.2f}" for name in METRICS)
        for minutes, metrics in row["scores"].items()
    )
    return f"{scores} ({row['wall_seconds']:.0f} s in all){disturbed(row)}"


def report(rows: Sequence[Row], settings: argparse.Namespace) -> list[str]:
    """The table of all runs, the medians, and the two ratios, as Markdown."""
    if not rows:
        return ["no run is finished"]
    signatures = {json.dumps(row["signatures"], sort_keys=True) for row in rows}
    if len(signatures) > 1:
        sys.exit(
            "the two sides were scored differently, so their scores do not compare:\n" + "\n".join(sorted(signatures))
        )
    minutes = settings.minutes
    first = rows[0]["machine"]
    names = " → ".join(LANGUAGES.get(one, one) for one in settings.pair.split("-"))
    lines = [
        f"## {names} from scratch, {minutes:g} minutes, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"{heading(first, settings.threads)}; beam {settings.beam}. "
        + "; ".join(f"{name} `{signature}`" for name, signature in rows[0]["signatures"].items()),
        "",
        "| who | rate | minutes trained | seed | parameters | chrF | BLEU | seconds in all | load before | others | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        machine, share = row["machine"], row["machine"].get("others_share")
        rate = "recipe" if row["rate"] is None else f"{row['rate']:g}"
        lines += [
            f"| {row['who']} | {rate} | {at} | {row['seed']} | {row['params'] / 1e6:.2f}M | {metrics['chrF']:.2f} | "
            f"{metrics['BLEU']:.2f} | {row['wall_seconds']:.0f} | {machine['load_before'][0]} | "
            f"{'unknown' if share is None else format(share, '.0%')} | {row['commit']} |"
            for at, metrics in row["scores"].items()
        ]
    return [*lines, "", *conclusions(rows, minutes, settings.quick)]


def conclusions(rows: Sequence[Row], minutes: float, quick: float) -> list[str]:
    """Medians, then what they say about the score at equal minutes and about the minutes to an equal score."""

    def scores(who: str, at: float, metric: str) -> list[float]:
        long = [row for row in rows if row["who"] == who and (who == "ours" or row["minutes"] == 2 * minutes)]
        return [row["scores"][f"{at:g}"][metric] for row in long if f"{at:g}" in row["scores"]]

    lines = []
    for who, at in (("ours", quick), ("ours", minutes), ("peer", minutes), ("peer", 2 * minutes)):
        found = {metric: scores(who, at, metric) for metric in METRICS}
        if found["chrF"]:
            lines.append(
                f"- {who}, {at:g} minutes: "
                + ", ".join(
                    f"{metric} {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
                    for metric, values in found.items()
                )
                + f", median of {len(found['chrF'])} seeds"
            )
    ours, theirs = scores("ours", minutes, "chrF"), scores("peer", minutes, "chrF")
    if ours and theirs:
        ratio = statistics.median(ours) / max(statistics.median(theirs), 1e-9)
        lines.append(f"- **chrF at {minutes:g} minutes: {ratio:.2f}× the peer's**")
    early, slow = scores("ours", quick, "chrF"), scores("peer", 2 * minutes, "chrF")
    if early and slow:
        goal = statistics.median(slow)
        reached = sum(score >= goal for score in early)
        words = f"reached by {reached} of {len(early)} seeds of ours in {quick:g} minutes"
        times = f": at least {2 * minutes / quick:g}× sooner" if reached == len(early) else ""
        lines.append(f"- **the peer's chrF of {2 * minutes:g} minutes ({goal:.2f}): {words}{times}**")
    bad = [row for row in rows if disturbed(row)]
    if bad:
        lines.append(
            f"- {len(bad)} of {len(rows)} runs were disturbed by other work on the machine: their minutes were worth less"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
