"""`ciyuan fill`."""

from __future__ import annotations

from typing import Annotated

import typer

from ciyuan.cli.options import Adapter
from ciyuan.cli.streams import answer, answer_json, chunks, printable


def fill(
    model: Annotated[str, typer.Argument(help="The folder of a masked language model.", metavar="MODEL")],
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help='Text with "[MASK]" where something is missing; without it, the lines of stdin.', metavar="[TEXT]…"
        ),
    ] = None,
    k: Annotated[
        int, typer.Option("--top", "-k", min=1, max=1000, help="So many candidates for each mask.", metavar="K")
    ] = 5,
    adapter: Adapter = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processor threads; default: torch's.", metavar="N")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line: text, and for each mask tokens with probabilities.")
    ] = False,
) -> None:
    """Fill in blanks: the likeliest tokens for each [MASK], with their probabilities."""
    from ciyuan.api import load

    reader = load(model, adapter=adapter, threads=threads)
    reader.check_verb("fill")
    for some in chunks(text or [], None):
        for line, masks in zip(some, reader.fill(some, k=k), strict=True):
            if as_json:
                found = [[{"token": token, "probability": round(p, 6)} for token, p in mask] for mask in masks]
                answer_json({"text": line, "masks": found})
                continue
            best = line
            for mask in masks:
                best = best.replace("[MASK]", mask[0][0], 1)
            answer(printable(best))
            for mask in masks:
                answer("  " + "  ".join(f"{printable(token)} {p:.1%}" for token, p in mask))
