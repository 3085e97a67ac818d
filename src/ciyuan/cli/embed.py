"""`ciyuan embed`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ciyuan.cli.options import Adapter
from ciyuan.cli.streams import answer_json, chunks


class Pooling(StrEnum):
    mean = "mean"
    first = "first"
    last = "last"


def embed(
    model: Annotated[str, typer.Argument(help="The folder of a trained model.", metavar="MODEL")],
    text: Annotated[
        list[str] | None, typer.Argument(help="What to embed; without it, the lines of stdin.", metavar="[TEXT]…")
    ] = None,
    input: Annotated[  # noqa: A002
        str | None, typer.Option("--input", "-i", help="A file to embed line by line.", metavar="FILE")
    ] = None,
    pooling: Annotated[Pooling, typer.Option(help="Which of the text's tokens the vector is made of.")] = Pooling.mean,
    normalise: Annotated[bool, typer.Option(help="Vectors of length 1, so that a product is a cosine.")] = True,
    adapter: Adapter = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processor threads; default: torch's.", metavar="N")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line: text, vector.")] = False,
) -> None:
    """Turn text into vectors: one line in, one line of numbers out."""
    from ciyuan.api import load

    reader = load(model, adapter=adapter, threads=threads)
    reader.check_verb("embed")
    for some in chunks(text or [], input):
        for line, vector in zip(
            some, reader.embed(some, pooling=pooling.value, normalise=normalise).tolist(), strict=True
        ):
            if as_json:
                answer_json({"text": line, "vector": vector})
            else:
                print(" ".join(f"{value:.6g}" for value in vector))
