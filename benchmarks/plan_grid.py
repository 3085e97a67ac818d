"""Does `auto` choose well? The plan, and sizes set by hand around it, each trained for the same minutes on the same text.

    python benchmarks/plan_grid.py                       # four corpora, five runs each, 5 minutes a run: about two hours
    python benchmarks/plan_grid.py --only sanguo.zh --minutes 2
    python benchmarks/plan_grid.py --tokens 300000       # the same tokens for each instead: what the law of the loss is fitted to

Under --minutes the plan is what `ciyuan train RECIPE --minutes M` decides on this machine, its trial of the machine included; the
others are the next sizes below and above it, and its own size with half and with twice the tokens of a step. Each is scored on the
same held-out texts, by the first of the scores that its evaluation gives; all have the plan's vocabulary. Under --tokens, models of
the --widths are trained. The data lies in --data: what is missing there is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciyuan.config import write_settings
from ciyuan.model.config import ModelSettings
from ciyuan.recipe.outlook import look_ahead
from ciyuan.recipe.running import trained
from ciyuan.recipe.scaling import SIZES, ladder
from ciyuan.recipe.settings import Recipe, read_recipe
from ciyuan.training import Silent
from ciyuan.training.judging import LOWER_IS_BETTER

ROOT = Path(__file__).resolve().parent.parent
DATA = Path("examples/data")
GOAL = 0.02
"""How far from the best the plan may be."""
SCORES = ("bits_per_byte", "masked_accuracy", "chrf")


@dataclass(frozen=True)
class Corpus:
    """A text, and the recipe that learns from it."""

    file: str
    recipe: str
    settings: tuple[str, ...] = ()


CORPORA = {
    "sotu.en": Corpus("sotu.en.txt.xz", "causal-lm"),
    "sanguo.zh": Corpus("sanguo.zh.txt.xz", "causal-lm"),
    "law.zh": Corpus("law.zh.txt.xz", "masked-lm"),
    "help.en-zh": Corpus("help.en-zh.train.tsv.xz", "translate", ("data.source=en", "data.target=zh")),
}


@dataclass(frozen=True)
class Row:
    """A run. score: the best of it; metric: which."""

    name: str
    metric: str
    score: float
    tokens: int
    seconds: float


def main() -> int:
    settings = parse()
    failed = False
    for name, corpus in CORPORA.items():
        path = settings.data / corpus.file
        if settings.only not in (None, name):
            continue
        if not path.exists():
            print(f"{name}: {path} is not there, left out", file=sys.stderr)
            continue
        overrides = [*corpus.settings, *settings.set, f"training.seed={settings.seed}"]
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as folder:
            for label, recipe in runs(corpus, path, overrides, settings):
                rows.append(train(label, recipe, Path(folder) / str(len(rows))))
                print(f"{name}: {line(rows[-1])}", file=sys.stderr, flush=True)
                if settings.out is not None:
                    with settings.out.open("a", encoding="utf-8") as file:
                        file.write(
                            json.dumps({"corpus": name, "recipe": write_settings(recipe), **vars(rows[-1])}) + "\n"
                        )
        failed |= not report(name, rows, judged=settings.tokens is None)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--data", type=Path, default=ROOT / DATA, help="where the texts lie (default: examples/data)")
    add("--only", choices=list(CORPORA), help="one of the corpora")
    add("--minutes", type=float, default=5.0, help="of each run (default 5)")
    add("--tokens", type=int, help="of each run, instead of minutes; nothing is judged")
    add(
        "--widths",
        type=lambda text: [int(word) for word in text.split(",")],
        default=[64, 128, 256],
        help="under --tokens",
    )
    add("--seed", type=int, default=0, help="default 0")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change an option of all runs; repeats")
    add("--out", type=Path, help="append each run to this file, a JSON object a line")
    return parser.parse_args()


def runs(
    corpus: Corpus, path: Path, overrides: list[str], settings: argparse.Namespace
) -> Iterator[tuple[str, Recipe]]:
    """The runs to make, the plan first."""
    if settings.tokens is not None:
        limits = [*overrides, f"training.tokens={settings.tokens}", "training.minutes=null"]
        recipe = read_recipe(corpus.recipe, data=[str(path)], overrides=limits)
        for rung in rungs(recipe.model):
            if rung.d_model in settings.widths:
                yield f"{rung.n_layers} × {rung.d_model}", recipe.model_copy(update={"model": rung})
        return
    wanted = read_recipe(corpus.recipe, data=[str(path)], minutes=settings.minutes, overrides=overrides)
    plan = look_ahead(wanted, quick=True, monitor=Silent()).plan
    yield "the plan", wanted  # as a user has it: decided anew, in its own minutes
    for model in neighbours(plan.recipe.model):
        yield f"{model.n_layers} × {model.d_model}", plan.recipe.model_copy(update={"model": model})
    for times in (0.5, 2.0):
        batch = round(plan.recipe.training.batch_budget * times)
        training = plan.recipe.training.model_copy(update={"batch_tokens": batch})
        yield f"steps of {round(plan.step_tokens * times):,}", plan.recipe.model_copy(update={"training": training})


def rungs(model: ModelSettings) -> list[ModelSettings]:
    """All sizes of a preset, small to large."""
    return ladder(model.model_copy(update={"size": "auto", **dict.fromkeys(SIZES)}))


def neighbours(model: ModelSettings) -> list[ModelSettings]:
    """The sizes next to a model's, by its width."""
    found, width = rungs(model), model.d_model or 256
    below, above = ([rung for rung in found if (rung.d_model or 0) * sign > width * sign] for sign in (-1, 1))
    return [*below[-1:], *above[:1]]


def train(name: str, recipe: Recipe, out: Path) -> Row:
    """The score of the last evaluation's best, without what a run says and writes at its end."""
    began = time.monotonic()
    with trained(recipe, out, monitor=Silent()) as done:
        best: dict[str, Any] = dict(done.result.best)
        metric = next(metric for metric in SCORES if metric in best)
        return Row(name, metric, best[metric], done.result.tokens, time.monotonic() - began)


def line(row: Row) -> str:
    return f"{row.name}: {row.metric} {row.score:.3f} after {row.tokens:,} tokens, {row.seconds:.0f} s in all"


def report(name: str, rows: list[Row], *, judged: bool) -> bool:
    """The table. Returns whether the plan, which is the first, is near enough to the best."""
    lower = rows[0].metric in LOWER_IS_BETTER
    best = (min if lower else max)(row.score for row in rows)
    print(
        f"\n## {name}: {rows[0].metric}\n\n| run | score | to the best | tokens | seconds in all |\n|---|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row.name} | {row.score:.3f} | {ratio(row.score, best, lower=lower):.3f} | {row.tokens:,} | {row.seconds:.0f} |"
        )
    if not judged:
        return True
    behind = 1 - ratio(rows[0].score, best, lower=lower)
    print(
        f"\n- the plan is {behind:.1%} behind the best of {len(rows)}: {'within' if behind <= GOAL else 'NOT within'} {GOAL:.0%}"
    )
    return behind <= GOAL


def ratio(score: float, best: float, *, lower: bool) -> float:
    """1 for the best, less for the others.

    >>> ratio(2.0, 1.9, lower=True), ratio(19.0, 20.0, lower=False)
    (0.95, 0.95)
    """
    return (best / score if lower else score / best) if score and best else 0.0


if __name__ == "__main__":
    sys.exit(main())
