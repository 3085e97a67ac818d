"""`ciyuan evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ciyuan.cli.options import Adapter
from ciyuan.cli.scores import score_lines
from ciyuan.cli.streams import answer, answer_json, printable, say


def evaluate(
    model: Annotated[str, typer.Argument(help="The folder of a trained model.", metavar="MODEL")],
    data: Annotated[
        list[str], typer.Option("--data", help="A file of examples to score the model on; repeats.", metavar="PATH")
    ],
    against: Annotated[
        str | None,
        typer.Option("--against", help="Another model: is the difference real, or chance?", metavar="MODEL"),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Print so many source, reference and output rows.", metavar="N")
    ] = 0,
    beam: Annotated[
        int, typer.Option(min=1, max=64, help="Of a translation: hypotheses kept; 1 is greedy.", metavar="N")
    ] = 4,
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
        bool, typer.Option("--json", help="As a JSON object: task, examples, metrics, signatures.")
    ] = False,
) -> None:
    """Score a model on held-out examples of what it was trained for, alone or against another model."""
    from ciyuan.api import load

    loaded = load(model, adapter=adapter, threads=threads)

    from ciyuan.evaluation import compare
    from ciyuan.generation import DecodingSettings

    decoding = DecodingSettings(beam=beam, length_penalty=length_penalty, batch_tokens=batch_tokens)
    judged = loaded.scored()
    other = None if against is None else load(against, threads=threads).scored()
    if other is not None and other.task != judged.task:
        from ciyuan.errors import UserError

        raise UserError(f"{model} was trained to {judged.task}, {against} to {other.task}",
                        fix="compare two models of one task")  # fmt: skip
    records, left_out = judged.read(data)
    if left_out:
        say(f"warning: {left_out:,} of {left_out + len(records):,} examples have an empty side and are not scored")
    scores = judged.score(records, decoding)
    theirs = None if other is None else other.score(records, decoding)
    for card in filter(None, (scores, theirs)):
        for warning in card.warnings:
            say(f"warning: {printable(warning)}")
    compared = {} if theirs is None else compare(scores, theirs, names=(model, str(against)))
    rows = [scores.rows[i] for i in _spread(len(scores.rows), samples)]
    if as_json:
        found: dict[str, Any] = {
            "task": judged.task, "examples": scores.examples, "metrics": scores.metrics, "signatures": scores.signatures,
        }  # fmt: skip
        if rows:
            found["samples"] = [
                {"source": row.source, "reference": row.reference, "output": row.output} for row in rows
            ]
        if theirs is not None:
            found["against"] = {
                "model": against, "metrics": theirs.metrics,
                "comparisons": {name: asdict(one) for name, one in compared.items()},
            }  # fmt: skip
        answer_json(found)
        return
    for row in rows:
        for name, text in (("source", row.source), ("reference", row.reference), ("output", row.output)):
            answer(f"{name:<11}{printable(text)}")
        answer("")
    answer(f"{scores.examples:,} examples of {printable(', '.join(data))}")
    for line in score_lines(scores.metrics, scores.signatures):
        answer(line)
    for one in compared.values():
        answer(printable(one.verdict))


def _spread(n: int, wanted: int) -> list[int]:
    """So many of 0 … n − 1, taken evenly."""
    wanted = min(n, wanted)
    return [i * n // wanted for i in range(wanted)]
