"""`ciyuan evaluate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ciyuan.cli.scores import score_lines
from ciyuan.cli.streams import answer, answer_json, printable, say
from ciyuan.errors import DataError


def evaluate(
    model: Annotated[str, typer.Argument(help="The folder of a trained model.", metavar="MODEL")],
    data: Annotated[
        list[str], typer.Option("--data", help="A file of pairs to score the model on; repeats.", metavar="PATH")
    ],
    samples: Annotated[
        int, typer.Option(min=0, help="Print so many source, reference and output rows.", metavar="N")
    ] = 0,
    beam: Annotated[int, typer.Option(min=1, max=64, help="Hypotheses kept; 1 is greedy.", metavar="N")] = 4,
    length_penalty: Annotated[
        float, typer.Option(min=0, max=5, help="Above 1 favours long translations, below short.", metavar="X")
    ] = 1.0,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Source tokens × beam worked on at a time.", metavar="N")
    ] = 8192,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processor threads; default: torch's.", metavar="N")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As a JSON object: task, examples, metrics, signatures.")
    ] = False,
) -> None:
    """Score a model on held-out pairs: chrF, and BLEU with the tokeniser of the target language."""
    from ciyuan.api import load

    translator = load(model, threads=threads)
    translator.check_task("translate")

    from ciyuan.data.readers import read_pairs
    from ciyuan.evaluation import evaluate_translator
    from ciyuan.generation import DecodingSettings

    records = read_pairs(data, translator.source, translator.target)
    pairs = [(record.fields["source"], record.fields["target"]) for record in records]
    kept = [pair for pair in pairs if all(side.strip() for side in pair)]
    if not kept:
        raise DataError("holds no pair that is not empty", where=", ".join(data))
    if len(kept) < len(pairs):
        say(f"warning: {len(pairs) - len(kept):,} of {len(pairs):,} pairs have an empty side and are not scored")
    scores = evaluate_translator(
        translator.transformer,
        translator.tokenizer,
        kept,
        source=translator.source,
        target=translator.target,
        settings=DecodingSettings(beam=beam, length_penalty=length_penalty, batch_tokens=batch_tokens),
        max_source=translator.max_source,
    )
    for warning in scores.warnings:
        say(f"warning: {printable(warning)}")
    rows = [scores.rows[i] for i in _spread(len(scores.rows), samples)]
    if as_json:
        found: dict[str, Any] = {
            "task": "translate", "examples": scores.examples, "metrics": scores.metrics, "signatures": scores.signatures,
        }  # fmt: skip
        if rows:
            found["samples"] = [
                {"source": row.source, "reference": row.reference, "output": row.output} for row in rows
            ]
        answer_json(found)
        return
    for row in rows:
        for name, text in (("source", row.source), ("reference", row.reference), ("output", row.output)):
            answer(f"{name:<11}{printable(text)}")
        answer("")
    answer(f"{scores.examples:,} pairs of {printable(', '.join(data))}")
    for line in score_lines(scores.metrics, scores.signatures):
        answer(line)


def _spread(n: int, wanted: int) -> list[int]:
    """So many of 0 … n − 1, taken evenly."""
    wanted = min(n, wanted)
    return [i * n // wanted for i in range(wanted)]
