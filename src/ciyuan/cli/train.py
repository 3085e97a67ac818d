"""`ciyuan train`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ciyuan.cli.scores import score_lines
from ciyuan.cli.streams import answer, answer_json, printable, say

if TYPE_CHECKING:
    from ciyuan.recipe.settings import Recipe


def train(
    recipe: Annotated[
        str, typer.Argument(help="A built-in recipe (`ciyuan recipes`) or a YAML file.", metavar="RECIPE")
    ],
    out: Annotated[
        str, typer.Option("--out", help="A new folder for the run; with --resume, the one to go on in.", metavar="DIR")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="A file to learn from, instead of data.train; repeats.", metavar="PATH"),
    ] = None,
    dev: Annotated[
        str | None,
        typer.Option("--dev", help="A file to measure on, or how many examples to hold out.", metavar="PATH|N"),
    ] = None,
    init: Annotated[
        str | None, typer.Option("--init", help="The folder of a model to start from.", metavar="MODEL")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="How long to train; the first of the limits ends it.", metavar="N")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="How many tokens to train on, both sides counted.", metavar="N")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify-resume",
            help="Train a few steps straight, and killed and resumed; say whether both end in the same bits, and leave nothing.",
        ),
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change an option of the recipe; repeats.", metavar="KEY=VALUE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as a JSON object.")] = False,
) -> None:
    """Train a model on your own text."""
    from ciyuan.recipe.settings import read_recipe

    chosen = read_recipe(
        recipe, data=data or (), dev=dev, minutes=minutes, tokens=tokens, overrides=set_ or (), init=init is not None
    )

    if verify:
        _verify(chosen, out, init=init, as_json=as_json)
        return

    from ciyuan.cli.progress import monitor_for_here
    from ciyuan.recipe.running import run_training

    monitor = monitor_for_here()
    try:
        outcome = run_training(chosen, out, init=init, resume=resume, monitor=monitor)
        monitor.close()
    except BaseException:
        monitor.abandon()
        raise
    if as_json:
        answer_json(outcome.as_dict())
        return
    if outcome.metrics:
        answer(f"on {outcome.examples:,} held-out examples:")
        for line in score_lines(outcome.metrics, outcome.signatures):
            answer(f"  {line}")
    answer(f"report: {outcome.report}")
    answer("try next:")
    for command in outcome.next_commands:
        answer(f"  {command}")
    if outcome.warnings:
        say(f"warnings of this run, {len(outcome.warnings):,} in all:")
        for warning in outcome.warnings[:MOST_WARNINGS]:
            say(f"  {printable(warning)}")
        if len(outcome.warnings) > MOST_WARNINGS:
            say(f"  … and {len(outcome.warnings) - MOST_WARNINGS:,} more, in the report")


MOST_WARNINGS = 20
"""That are repeated at the end; the report has all."""


def _verify(recipe: Recipe, out: str, *, init: str | None, as_json: bool) -> None:
    from ciyuan.errors import CiyuanError
    from ciyuan.recipe.rehearsal import verify_resume

    verdict = verify_resume(recipe, out, init=init, say=say)
    if as_json:
        answer_json({"same": verdict.difference is None, **asdict(verdict)})
    elif verdict.difference is None:
        for line in verdict.lines():
            answer(line)
    if verdict.difference is not None:
        raise CiyuanError("\n".join(verdict.lines()))
