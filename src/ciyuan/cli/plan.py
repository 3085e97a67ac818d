"""`ciyuan plan`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ciyuan.cli.streams import answer, answer_json, open_output, printable, say

if TYPE_CHECKING:
    from ciyuan.recipe.forecasting import Range
    from ciyuan.recipe.outlook import Forecast, Outlook

WIDTH = 110
"""Columns, where there is no terminal to ask."""
DIGITS = {"nll": 3, "bits_per_byte": 3}


def plan(
    recipe: Annotated[
        str, typer.Argument(help="A built-in recipe (`ciyuan recipes`) or a YAML file.", metavar="RECIPE")
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
    minutes: Annotated[float | None, typer.Option("--minutes", help="How long to train.", metavar="N")] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="How many tokens to train on, both sides counted.", metavar="N")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change an option of the recipe; repeats.", metavar="KEY=VALUE")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave the short runs out: everything but the score to expect.")
    ] = False,
    write: Annotated[
        str | None, typer.Option("--write", help="Write the recipe in numbers, ready to train.", metavar="FILE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object.")] = False,
) -> None:
    """Show what `ciyuan train` would decide and need, and what it would reach, before anything is spent."""
    from ciyuan.config import write_settings
    from ciyuan.errors import DataError
    from ciyuan.recipe.settings import read_recipe

    chosen = read_recipe(
        recipe, data=data or (), dev=dev, minutes=minutes, tokens=tokens, overrides=set_ or (), init=init is not None
    )
    if write is not None and Path(write).exists():
        raise DataError("exists already, and nothing is overwritten", where=write, fix="name another file")

    from ciyuan.cli.progress import Lines
    from ciyuan.recipe.outlook import look_ahead

    class Steps(Lines):
        """What is being done, without what a run says of its data."""

        def on_message(self, text: str) -> None:
            if text.startswith(("training a tokenizer", "a short run", "trying")):
                say(printable(text))

        def on_preview(self, examples: object) -> None:
            pass

    found = look_ahead(chosen, init=init, quick=quick, monitor=Steps())
    if write is not None:
        with open_output(write) as stream:
            stream.write(write_settings(found.plan.recipe))
    if as_json:
        answer_json(found.as_dict())
        return
    _show(found)
    answer("")
    answer(f"train it:  {_next(recipe, data, dev, init, minutes, tokens, set_, write)}")


def _next(
    recipe: str, data: list[str] | None, dev: str | None, init: str | None, minutes: float | None, tokens: int | None,
    set_: list[str] | None, write: str | None,
) -> str:  # fmt: skip
    """The command that trains what was planned: the recipe as it was asked for, or the one that was written."""
    import shlex

    words = ["ciyuan", "train", write if write is not None else recipe]
    if write is None:
        words += [part for path in data or () for part in ("--data", path)]
        words += [part for text in set_ or () for part in ("--set", text)]
        for name, value in (("--dev", dev), ("--minutes", minutes), ("--tokens", tokens)):
            words += [] if value is None else [name, f"{value:g}" if isinstance(value, float) else str(value)]
    words += [] if init is None else ["--init", init]
    return f"{shlex.join(words)} --out DIR"


def _show(found: Outlook) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, soft_wrap=False)
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(found):
        facts.add_row(Text(name), Text(printable(value)))
    console.print(facts)
    if len(found.plan.rungs) > 1:
        console.print(_sizes(found))
    if found.forecasts:
        console.print(_scores(found.forecasts))


def _facts(found: Outlook) -> Iterator[tuple[str, str]]:
    plan, text, memory, disk = found.plan, found.text, found.memory, found.disk
    recipe = plan.recipe
    columns = " + ".join(f"{n:,} {name}" for name, n in found.tokens_by_column.items())
    yield "text 文本", f"{text.texts:,} texts, {text.characters:,} characters: {columns} tokens"
    if plan.machine is not None:
        machine = plan.machine
        where = "a GPU" if machine.device == "cuda" else f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
        speeds = ", ".join(f"{one.what} {one.tokens_per_second * machine.gain:,.0f}" for one in machine.sizes)
        tried = "; ".join(
            f"{one.precision}, {one.threads} threads: {one.tokens_per_second:,.0f}"
            for one in machine.others if (one.threads, one.precision) != (machine.sizes[0].threads, machine.sizes[0].precision)
        )  # fmt: skip
        yield "machine 机器", f"{where}, {machine.precision}, tried for {machine.took:.0f} s; tokens/s: {speeds}"
        if tried:
            yield "", f"also tried, on {machine.others[0].what}: {tried}"
    parts = ", ".join(f"{name} {n:,}" for name, n in plan.parameters.items() if name not in ("total", "working"))
    layers = f"{recipe.model.n_layers}" + (
        f" + {recipe.model.n_decoder_layers}" if recipe.model.n_decoder_layers else ""
    )
    size = f"{layers} layers × {recipe.model.d_model}: " if recipe.model.d_model and recipe.model.n_layers else ""
    yield "model 模型", f"{size}{plan.parameters['total']:,} parameters ({parts})"
    yield "why 理由", _reason(found)
    yield "vocabulary 词表", _vocabulary(found)
    batch = f"{plan.step_tokens:,} tokens" + (
        f" ({recipe.training.accumulate} × {recipe.training.batch_tokens:,})" if recipe.training.accumulate > 1 else ""
    )
    about = "" if plan.limit == "steps" else "about "
    yield "a step 批次", f"{batch}; {about}{plan.steps:,} steps, {plan.tokens:,} tokens, {plan.epochs:.1f} epochs"
    yield (
        "memory 内存",
        (
            f"{_size(memory.peak)} at most, beside Python's own: {_size(memory.weights)} weights, "
            f"{_size(memory.optimizer)} optimiser, the rest for a step"
        ),
    )
    short = "" if disk.free > disk.most else "  TOO LITTLE"
    yield (
        "disk 磁盘",
        (
            f"{_size(disk.most)} at most: {disk.checkpoints} checkpoints of {_size(disk.checkpoint)}, "
            f"the model {_size(disk.model)}; {_size(disk.free)} free{short}"
        ),
    )


def _reason(found: Outlook) -> str:
    plan = found.plan
    if len(plan.rungs) > 1:
        return "of the sizes below, the one whose loss is expected to be lowest after the tokens it would see"
    if plan.limit == "minutes":
        return "the sizes are the recipe's own; nothing was left to decide"
    return f"by the amount of text and the {plan.limit} alone: the same on every machine"


def _vocabulary(found: Outlook) -> str:
    size = found.plan.recipe.tokenizer.vocab_size
    of = f"of {found.plan.recipe.tokenizer.kind}, " if found.plan.recipe.tokenizer.path is None else ""
    each = found.plan.unique / int(size) if isinstance(size, int) else 0
    return f"{size:,} pieces {of}each met {each:,.0f} times in the text on average"


def _sizes(found: Outlook):  # type: ignore[no-untyped-def]  # a rich Table, which is not imported before it is needed
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, padding=(0, 1))
    for name in (
        "size 尺寸",
        "layers 层数",
        "working parameters 参数",
        "tokens 词元",
        "epochs 轮数",
        "loss above the best 损失差",
        "",
    ):
        table.add_column(name, justify="right")
    best = min(rung.loss for rung in found.plan.rungs)
    for rung in found.plan.rungs:
        chosen = rung.model == found.plan.chosen.model
        layers = f"{rung.model.n_layers}" + (f" + {rung.model.n_decoder_layers}" if rung.model.n_decoder_layers else "")
        table.add_row(
            f"{rung.model.d_model}", layers, f"{rung.n:,}", f"{rung.tokens:,.0f}",
            f"{rung.tokens / max(1, found.plan.unique):.1f}", f"{rung.loss - best:+.3f}", "← chosen 选定" if chosen else "",
            style="bold" if chosen else None,
        )  # fmt: skip
    return table


def _scores(forecasts: tuple[Forecast, ...]):  # type: ignore[no-untyped-def]  # likewise
    from rich import box
    from rich.table import Table

    from ciyuan.report import spelt

    table = Table(box=box.SIMPLE, padding=(0, 1))
    for name in (
        "score 指标",
        "short runs 试训",
        "expected 预计",
        "twice the time 两倍时间",
        "twice the text 两倍文本",
    ):
        table.add_column(name, justify="left" if name.startswith("score") else "right")
    for one in forecasts:
        digits = DIGITS.get(one.metric, 1)
        seen = " → ".join(f"{score:.{digits}f}" for _, score in one.runs)
        ranges = (_range(part, digits) for part in (one.planned, one.twice_the_time, one.twice_the_text))
        table.add_row(spelt(one.metric), seen, *ranges)
    return table


def _range(part: Range, digits: int) -> str:
    return f"{part.expected:.{digits}f} ({part.low:.{digits}f} … {part.high:.{digits}f})"


def _size(n: int) -> str:
    """
    >>> _size(3_400_000), _size(5_000_000_000)
    ('3 MB', '5.0 GB')
    """
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:,.0f} MB"
