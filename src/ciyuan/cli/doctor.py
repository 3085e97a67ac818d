"""`ciyuan doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ciyuan.cli.streams import answer, answer_json, open_output, printable, say

if TYPE_CHECKING:
    from ciyuan.data.checks import Shape
    from ciyuan.doctor.report import Line
    from ciyuan.recipe.settings import Recipe, TaskName
    from ciyuan.text import Tokenizer

FOUND = 3
"""The exit code where something is found that --fail-on names."""
STYLES = {
    "title": "bold",
    "error": "bold red",
    "warning": "yellow",
    "note": "cyan",
    "place": "blue",
    "faint": "dim",
    "good": "bold green",
}
TASKS: dict[Shape, TaskName] = {
    "pairs": "translate", "texts": "causal-lm", "labelled": "classify", "answers": "answer", "chats": "chat",
}  # fmt: skip


def doctor(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Files as `ciyuan train --data` takes them; or `machine`.", metavar="FILE…"),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="What the data is for; guessed from its columns unless given.", metavar="TASK"),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Take files, columns and lengths from a recipe.", metavar="RECIPE")
    ] = None,
    dev: Annotated[
        str | None, typer.Option("--dev", help="A file to measure on: what of it is in FILE too?", metavar="FILE")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Name columns as a recipe does: data.source=en; repeats.", metavar="KEY=VALUE"),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Count what is lost at --max-length with this tokeniser.", metavar="FOLDER"),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", min=1, help="Tokens that are read, instead of data.max_length.", metavar="N"),
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", help="Write a page, in English and Chinese.", metavar="FILE")
    ] = None,
    fix: Annotated[
        str | None,
        typer.Option(
            "--fix",
            help="Write a cleaned copy; of parallel files OUT.en and OUT.zh. Nothing is overwritten.",
            metavar="OUT",
        ),
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option("--fail-on", help="error, warning or never: from what on the exit code is 3.", metavar="SEVERITY"),
    ] = "error",
    every: Annotated[bool, typer.Option("--all", help="Show all places, not the first few.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object, with all places.")] = False,
) -> None:
    """Say what is wrong with data, with file and line; `ciyuan doctor machine`: what this machine is worth.

    Exit codes: 0 where nothing as bad as --fail-on is found, 3 where something is, 2 where a file or an option cannot be used.
    """
    if files == ["machine"] and not Path("machine").exists():
        _machine(as_json)
        return
    severity = _severity(fail_on)

    from ciyuan.doctor import examine
    from ciyuan.doctor.cleaning import check_output, clean
    from ciyuan.doctor.report import as_dict, lines, page
    from ciyuan.recipe.tasks import task_of

    chosen = _recipe(files or [], task, recipe, dev, set_ or [], max_length)
    shape: Shape = task_of(chosen.task, "decoder").shape(chosen, "decoder")
    if fix is not None:
        check_output(chosen.data, shape, fix)
    if html is not None and os.path.lexists(html):
        open_output(html).close()  # says that nothing is overwritten
    examined = examine(chosen.data, shape, tokenizer=_tokenizer(tokenizer), progress=_progress())
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    fixed = None if fix is None else clean(chosen.data, shape, examined, fix)
    if html is not None:
        from datetime import datetime

        with open_output(html) as stream:
            stream.write(page(examined, created=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"))
    if as_json:
        answer_json(as_dict(examined, fixed))
    else:
        _show(lines(examined, every=every, fixed=fixed))
    if severity is not None and examined.at_least(severity):
        raise typer.Exit(FOUND)


def _severity(name: str) -> Literal["error", "warning"] | None:
    from ciyuan.errors import UserError, did_you_mean

    if name == "error":
        return "error"
    if name == "warning":
        return "warning"
    if name == "never":
        return None
    choices = ("error", "warning", "never")
    raise UserError(
        f"--fail-on is {printable(name)}", allowed=f"allowed: {', '.join(choices)}", fix=did_you_mean(name, choices)
    )


def _recipe(
    files: list[str],
    task: str | None,
    recipe: str | None,
    dev: str | None,
    overrides: list[str],
    max_length: int | None,
) -> Recipe:
    """A recipe whose data section says what to look at."""
    from ciyuan.errors import DataError, UserError
    from ciyuan.recipe import builtin
    from ciyuan.recipe.settings import read_recipe

    if recipe is not None and task is not None:
        raise UserError("--task and --recipe both say what the data is for", fix="give one of the two")
    if task is not None and task not in builtin.names():
        builtin.text(task)  # says what there is
    if recipe is None and not files:
        raise DataError("no file to look at", fix="name one, or give --recipe")
    if max_length is not None:
        overrides = [*overrides, f"data.max_length={max_length}"]
    if dev is None and not any(text.startswith("data.dev=") for text in overrides) and recipe is None:
        overrides = [*overrides, "data.dev=0"]
    name = recipe or task
    if name is None:
        from ciyuan.doctor import guess_shape

        name = TASKS[_said_by(overrides) or guess_shape(files)]
    return read_recipe(name, data=files, dev=dev, overrides=overrides)


def _said_by(overrides: Iterable[str]) -> Shape | None:
    """The shape of data that has columns of the names given with --set."""
    keys = {text.partition("=")[0].removeprefix("data.") for text in overrides}
    if keys & {"label", "multi_label", "second", "label_separator"}:
        return "labelled"
    if keys & {"question", "passage", "answer"}:
        return "answers"
    return "pairs" if keys & {"source", "target"} else None


def _tokenizer(folder: str | None) -> Tokenizer | None:
    if folder is None:
        return None
    from ciyuan.text import Tokenizer

    return Tokenizer.load(folder)


def _progress() -> Callable[[int], None]:
    """What says how far it is, on a terminal alone."""
    if not sys.stderr.isatty():
        return lambda n: None
    return lambda n: print(f"\r{n:,} examples", end="", file=sys.stderr, flush=True)


def _show(report: Iterable[Line]) -> None:
    if not sys.stdout.isatty():
        for line in report:
            answer("".join(printable(text) for text, _ in line).rstrip())
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in report:
        console.print(Text.assemble(*((printable(text), STYLES.get(style or "", "")) for text, style in line)))


def _machine(as_json: bool) -> None:
    from ciyuan.doctor.machine import lines, probe

    say("looking at this machine, some fifteen seconds")
    found = probe(Path.cwd())
    if as_json:
        answer_json(found.as_dict())
        return
    _show(lines(found))
