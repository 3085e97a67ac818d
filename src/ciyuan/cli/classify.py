"""`ciyuan classify`."""

from __future__ import annotations

from typing import Annotated

import typer

from ciyuan.cli.options import Adapter
from ciyuan.cli.streams import answer_json, chunks, open_output, printable, say
from ciyuan.errors import DataError


def classify(
    model: Annotated[str, typer.Argument(help="The folder of a trained classifier.", metavar="MODEL")],
    text: Annotated[
        list[str] | None, typer.Argument(help="What to classify; without it, the lines of stdin.", metavar="[TEXT]…")
    ] = None,
    input: Annotated[  # noqa: A002
        str | None, typer.Option("--input", "-i", help="A file to classify line by line.", metavar="FILE")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A new file for the labels.", metavar="FILE")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Each line is two texts with a tab between them.")] = False,
    adapter: Adapter = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processor threads; default: torch's.", metavar="N")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line: text, labels, probabilities of all labels.")
    ] = False,
) -> None:
    """Label text: one line in; out its label, a tab, and the label's probability (of several labels: commas between them)."""
    from ciyuan.api import load

    reader = load(model, adapter=adapter, threads=threads)
    reader.check_verb("classify")
    lines = n_truncated = 0
    out = open_output(output)
    try:
        for some in chunks(text or [], input):
            first, second = some, None
            if pairs:
                parts = [line.split("\t") for line in some]
                wrong = next((i for i, part in enumerate(parts) if len(part) != 2), None)
                if wrong is not None:
                    raise DataError(
                        f"line {lines + wrong + 1} has {len(parts[wrong]) - 1} tabs", allowed="--pairs: text, tab, text"
                    )
                first, second = [part[0] for part in parts], [part[1] for part in parts]
            for line, found in zip(some, reader.classify(first, second), strict=True):
                lines += 1
                n_truncated += found.truncated
                if as_json:
                    answer_json(
                        {"text": line, "labels": list(found.labels), "truncated": found.truncated,
                         "probabilities": {label: round(p, 6) for label, p in found.probabilities.items()}},
                        file=out,
                    )  # fmt: skip
                    continue
                shown = ",".join(found.labels) or "-"
                surest = [f"{found.probabilities[label]:.3f}" for label in found.labels]
                print(f"{printable(shown)}\t{','.join(surest) or '-'}", file=out)
            out.flush()
    finally:
        if output not in (None, "-"):
            out.close()
    if n_truncated:
        say(f"warning: {n_truncated} of {lines} texts are longer than the model reads, and were truncated")
