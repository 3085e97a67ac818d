"""`ciyuan export`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from ciyuan.cli.streams import answer, answer_json, printable, say


def export(
    model: Annotated[str, typer.Argument(help="The folder of a trained model.", metavar="MODEL")],
    out: Annotated[str, typer.Option("--out", "-o", help="A new folder for the export.", metavar="DIR")],
    format: Annotated[  # noqa: A002
        str, typer.Option("--format", help="hf, gguf, ctranslate2 or onnx.", metavar="FORMAT")
    ],
    dtype: Annotated[
        str,
        typer.Option("--dtype", help="float32, float16 or bfloat16: what the weights are written in.", metavar="TYPE"),
    ] = "float32",
    quantize: Annotated[
        str | None,
        typer.Option("--quantize", help="Fewer bits: int8, int8_float32, int8_float16, q8_0.", metavar="KIND"),
    ] = None,
    unproven: Annotated[
        bool, typer.Option("--unproven", help="Write it though the runtime that would prove it is not installed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole report as a JSON object.")] = False,
) -> None:
    """Write a model for another runtime, reopen it there in a fresh process, and compare ids, logits and text."""
    from ciyuan.export import export as write

    found = write(model, out, format=format, dtype=dtype, quantize=quantize, unproven=unproven)
    report = found.report
    for part in report["left_out"]:
        say(f"warning: left out: {printable(part)}")
    for advice in report["advice"]:
        say(f"note: {printable(advice)}")
    if as_json:
        answer_json(report)
        return
    if report["verdict"] == "proven":
        for name, facts in report["compared"].items():
            for line in _said(facts):
                say(f"{name.replace('_', ' ')}: {line}")
    answer(f"{report['verdict']}: {printable(str(found.folder))}")


def _said(facts: Mapping[str, Any]) -> Iterator[str]:
    """What was compared under one name, in words."""
    if "next token" in facts:
        told = facts["next token"]
        yield f"mean divergence {told['mean divergence']:.2g} nats ({told['divergence allowed']:g} allowed)"
        line = f"{told['same']:,} of {told['of']:,} next tokens equal"
        if (lost := told["widest margin lost"]) is not None:
            line += f"; the others where ours led by {lost:.2g} nats or less ({told['margin allowed']:g} allowed)"
        yield line
    elif "relative" in facts:
        size = f"{facts['measure']} {facts['relative']:.2g} standard deviations"
        yield f"{size} ({facts['tolerance']:g} allowed)"
    else:
        line = f"{facts['equal']} of {facts['of']} equal"
        if parted := facts.get("margins where texts part"):
            line += f"; the others part where ours led by {parted['widest']:.2g} or less ({parted['allowed']:.2g} allowed)"
        yield line
