"""`ciyuan translate`."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from ciyuan.cli.options import Adapter
from ciyuan.cli.streams import chunks, open_output, say
from ciyuan.errors import DataError

SUSPECT = frozenset({"loop", "long", "short", "empty"})
"""Flags of a translation that a person should look at."""


def translate(
    model: Annotated[str, typer.Argument(help="The folder of a trained model.", metavar="MODEL")],
    text: Annotated[
        list[str] | None, typer.Argument(help="What to translate; without it, the lines of stdin.", metavar="[TEXT]…")
    ] = None,
    input: Annotated[  # noqa: A002
        str | None, typer.Option("--input", "-i", help="A file to translate line by line.", metavar="FILE")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A new file for the translations.", metavar="FILE")
    ] = None,
    beam: Annotated[int, typer.Option(min=1, max=64, help="Hypotheses kept; 1 is greedy.", metavar="N")] = 4,
    length_penalty: Annotated[
        float, typer.Option(min=0, max=5, help="Above 1 favours long translations, below short.", metavar="X")
    ] = 1.0,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Source tokens × beam worked on at a time.", metavar="N")
    ] = 8192,
    adapter: Adapter = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processor threads; default: torch's.", metavar="N")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line: source, text, score, truncated, flags.")
    ] = False,
) -> None:
    """Translate text: one line in, one line out."""
    lines = chunks(text or [], input)
    from ciyuan.api import load

    translator = load(model, adapter=adapter, threads=threads)
    translator.check_verb("translate")
    counts = Counter[str]()
    out = open_output(output)
    try:
        for chunk in lines:
            found = translator.translations(chunk, beam=beam, length_penalty=length_penalty, batch_tokens=batch_tokens)
            for source, translation in zip(chunk, found, strict=True):
                counts["lines"] += 1
                counts["truncated"] += translation.truncated
                counts["suspect"] += bool(SUSPECT.intersection(translation.flags))
                line = " ".join(translation.text.splitlines())
                if as_json:
                    said = {"source": source, "text": line, "score": round(translation.score, 4),
                            "truncated": translation.truncated, "flags": translation.flags}  # fmt: skip
                    line = json.dumps(said, ensure_ascii=False)
                print(line, file=out)
            out.flush()
    finally:
        if output not in (None, "-"):
            out.close()
    if counts["lines"] == 0 and input not in (None, "-"):
        raise DataError("holds no text to translate", where=input)
    if counts["truncated"]:
        say(
            f"warning: something is missing from {counts['truncated']} of {counts['lines']} translations (--json says which)"
        )
    if counts["suspect"]:
        say(
            f"warning: {counts['suspect']} of {counts['lines']} translations repeat, or are oddly long or short (see --json)"
        )
