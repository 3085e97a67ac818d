"""`ciyuan inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from ciyuan.cli.streams import answer, answer_json, open_output, printable, say

if TYPE_CHECKING:
    from ciyuan.interop import Loaded


def inspect(
    model: Annotated[str, typer.Argument(help="The folder of a trained model.", metavar="MODEL")],
    text: Annotated[list[str] | None, typer.Argument(help="Text to show as tokens and ids.", metavar="[TEXT]…")] = None,
    step: Annotated[
        int | None, typer.Option("--step", help="Of a run: show the texts that this step was trained on.", metavar="N")
    ] = None,
    find: Annotated[
        str | None, typer.Option("--find", help="Of a run: was it trained on this text, and at which steps?", metavar="TEXT")
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", help="Write a page: tokens, what the model expected, attention maps.", metavar="FILE")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Of the page of an encoder–decoder: the answer to read, not the model's own.", metavar="TEXT")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=50, help="Of the page: likeliest tokens at each place.", metavar="K")] = 5,
    length: Annotated[int | None, typer.Option(min=1, help="Count memory for texts of N tokens.", metavar="N")] = None,
    dtype: Annotated[
        str, typer.Option(help="What --length counts in: fp32, bf16 or fp16.", metavar="DTYPE")
    ] = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object.")] = False,
) -> None:
    """Show what a model is made of; with TEXT, how it reads that text."""
    if step is not None or find is not None:
        from ciyuan.cli import history

        if step is not None:
            history.show_step(model, step, as_json=as_json)
        if find is not None:
            history.show_found(model, find, as_json=as_json)
        return

    from ciyuan import inspection
    from ciyuan.interop import load_model_folder

    _check_options(text, html=html, target=target, dtype=dtype)
    loaded = load_model_folder(model)
    if html is not None:
        _write_page(loaded, model, (text or [""])[0], html, target=target, top=top)
        return
    if text:
        pieces = [inspection.tokens(loaded.tokenizer, one) for one in text]
        if as_json:
            answer_json(pieces)
            return
        for piece in pieces:
            answer(inspection.tokens_as_text(piece))
        return
    facts = inspection.describe(loaded.model, loaded.tokenizer, loaded.info, length=length, dtype=cast(inspection.Dtype, dtype))
    if as_json:
        answer_json(facts)
    else:
        for line in inspection.as_text(facts).split("\n"):
            answer(printable(line))


def _check_options(text: list[str] | None, *, html: str | None, target: str | None, dtype: str) -> None:
    from ciyuan.errors import UserError, did_you_mean
    from ciyuan.inspection import BYTES

    if dtype not in BYTES:
        raise UserError(f"--dtype is {dtype!r}", allowed=f"one of {', '.join(BYTES)}", fix=did_you_mean(dtype, BYTES))
    if html is not None and len(text or []) != 1:
        raise UserError(f"--html shows one text, and {len(text or [])} are given", fix="give one, in quotes")
    if target is not None and html is None:
        raise UserError("--target is for the page", fix="add --html FILE")


def _write_page(loaded: Loaded, model: str, text: str, path: str, *, target: str | None, top: int) -> None:
    from pathlib import Path

    from ciyuan import inspection
    from ciyuan.prediction import look
    from ciyuan.report.look import render_look

    facts = inspection.describe(loaded.model, loaded.tokenizer, loaded.info)
    page = render_look(
        look(loaded.model, loaded.tokenizer, text, target=target, k=top), name=Path(model).name or model,
        facts=inspection.as_facts(facts),
    )  # fmt: skip
    if path == "-":
        answer(page)
        return
    with open_output(path) as file:
        file.write(page)
    say(f"{path}: open it in a browser")
