"""Recipes and arguments that are wrong in one place or in all: exit 0 or 2, three lines, the wrong key named, never a traceback.

Half of the cases are a built-in recipe with one mistake planted, which the message must name; the others are arguments drawn from
what there is and from what there is not. No data that they name exists, so nothing is ever trained.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
from collections.abc import Iterator
from typing import Any

import typer.main
import yaml

from ciyuan.cli import main as cli
from ciyuan.recipe import builtin
from ciyuan.recipe.settings import Recipe
from torture.files import HungError, limited
from torture.harness import Case, Tally, broken, replaced

WRONG: list[Any] = [
    "soon", "", -1, -0.5, 1e400, float("nan"), [], {}, [1, "a"], {"a": 1}, True, "\x1b[31mred", "x" * 3000, "真", 2**70,
    None, "1e3", "0x10", "~", "null",
]  # fmt: skip
WORDS = [
    "train", "translate", "generate", "fill", "classify", "answer", "embed", "chat", "evaluate", "inspect", "doctor",
    "recipes", "tokenizer", "list",
    "show", "schema", "encode", "report", "causal-lm", "masked-lm", "--help", "--version", "--json", "--set", "--data",
    "--dev", "--out", "--minutes",
    "--beam", "--input", "--init", "--resume", "--prompt", "--seed", "--top-p", "--recipe", "--task", "--fail-on", "--html",
    "--fix", "--max-length",
    "training.lr=3", "training.lr", "data.dev=-1", "model.d_model=7", "=", "-", "--", "", "0", "-1", "1e999", "nan",
    "/nonexistent/file.tsv", "nowhere",
    "\x1b[2J", "a\x00b", "x" * 500, "训练", "😀", "--bean", "--sed", "trian", "$(rm)", "a=b=c", "..",
]  # fmt: skip


def run(tally: Tally) -> None:
    # The commands are made out of their functions' signatures, which takes ten times as long as most cases do: once is enough.
    with broken(MUTANTS, tally.mutant), replaced(typer.main, "get_command", functools.cache(typer.main.get_command)):
        for case in tally.cases(tally.size(fast=150, full=20_000)):
            with _elsewhere(case):
                if case.number % 2:
                    _recipe(tally, case)
                else:
                    _arguments(tally, case)


def _recipe(tally: Tally, case: Case) -> None:
    values, key, is_surely_wrong = mistaken(case.draw)
    path = case.folder / "recipe.yaml"
    text = yaml.safe_dump(values, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    code, said = _called(
        tally, case, ["train", str(path), "--out", str(case.folder / "run"), "--data", "/nonexistent/file.tsv"]
    )
    if code == 0:
        tally.fail(case, f"{key} is wrong, and it exits with 0")
    elif key not in said and (is_surely_wrong or "no such file" not in said):
        tally.fail(case, f"{key} is wrong, and it says: {said}")


def mistaken(draw: random.Random) -> tuple[dict[str, Any], str, bool]:
    """A recipe with one mistake, the key that must be named, and whether it is none that might be right after all."""
    values = yaml.safe_load(builtin.text(draw.choice(builtin.names())))
    section = draw.choice(
        [name for name in ("data", "tokenizer", "model", "training") if isinstance(values.get(name), dict)]
    )
    options = values[section]
    known = sorted(Recipe.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
    if draw.random() < 0.5:
        name = draw.choice(known)
        at = draw.randrange(len(name))
        key = (
            draw.choice(
                [name[:at] + name[at + 1 :], name + "s", name.upper(), "nonsense", name.replace("_", "-") + "_"]
            )
            or "x"
        )
        if key in known:
            key += "z"
        options[key] = draw.choice([1, "a", None])
        return values, key, True
    key = draw.choice(known)
    options[key] = draw.choice(WRONG)
    return values, key, False


def _arguments(tally: Tally, case: Case) -> None:
    draw = case.draw
    words = [draw.choice(WORDS) if draw.random() < 0.9 else _junk(draw) for _ in range(draw.randrange(7))]
    (case.folder / "arguments.txt").write_text("\n".join(map(ascii, words)), encoding="utf-8")
    _called(tally, case, words)


def _junk(draw: random.Random) -> str:
    points = (draw.choice((draw.randrange(1, 0x80), draw.randrange(0xA0, 0xD7FF))) for _ in range(draw.randrange(8)))
    return "".join(map(chr, points))


def _called(tally: Tally, case: Case, arguments: list[str]) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    code = -1
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited(30):
            code = cli.main(arguments)
    except HungError:
        tally.fail(case, f"hung: {arguments!r}")
        return code, ""
    except BaseException as error:  # noqa: BLE001
        tally.fail(case, f"{type(error).__name__} got out of main: {arguments!r}")
        return code, ""
    said = err.getvalue()
    if code not in (0, 2):
        tally.fail(case, f"exit {code}: {arguments!r}: {said[:300]}")
    elif "Traceback" in said or (code == 2 and not 1 <= len(said.splitlines()) <= 3):
        tally.fail(case, f"{len(said.splitlines())} lines: {arguments!r}: {said[:300]}")
    elif any(not char.isprintable() and char != "\n" for char in said):
        tally.fail(case, f"control characters on the terminal: {arguments!r}")
    return code, said


@contextlib.contextmanager
def _elsewhere(case: Case) -> Iterator[None]:
    """In the case's folder, with nothing on stdin."""
    before = os.getcwd()  # noqa: PTH109
    os.chdir(case.folder)
    try:
        with replaced(cli.sys, "stdin", None):
            yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _loose() -> Iterator[None]:
    def explain(error: BaseException) -> int:
        print("Traceback (most recent call last):", file=cli.sys.stderr)
        return 1

    with replaced(cli, "_explain", explain):
        yield


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    """A recipe whose mistakes are not named."""
    from ciyuan.errors import RecipeError
    from ciyuan.recipe import settings

    def build(kind: Any, sheet: Any) -> Any:
        raise RecipeError("something is wrong with the recipe")

    with replaced(settings, "build", build):
        yield


MUTANTS = {"errors that are tracebacks": _loose, "a recipe whose mistakes are not named": _lenient}
