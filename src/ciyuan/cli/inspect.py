"""`ciyuan inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from ciyuan.cli.streams import answer, answer_json, printable


def inspect(
    model: Annotated[str, typer.Argument(help="The folder of a trained model.", metavar="MODEL")],
    text: Annotated[list[str] | None, typer.Argument(help="Text to show as tokens and ids.", metavar="[TEXT]…")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object.")] = False,
) -> None:
    """Show what a model is made of; with TEXT, how it reads that text."""
    from ciyuan import inspection
    from ciyuan.interop import load_model_folder

    loaded = load_model_folder(model)
    if text:
        pieces = [inspection.tokens(loaded.tokenizer, one) for one in text]
        if as_json:
            answer_json(pieces)
            return
        for piece in pieces:
            answer(inspection.tokens_as_text(piece))
        return
    facts = inspection.describe(loaded.model, loaded.tokenizer, loaded.info)
    if as_json:
        answer_json(facts)
    else:
        for line in inspection.as_text(facts).split("\n"):
            answer(printable(line))
