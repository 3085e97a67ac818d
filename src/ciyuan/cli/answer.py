"""`ciyuan answer`."""

from __future__ import annotations

from typing import Annotated

import typer

from ciyuan.cli.options import Adapter
from ciyuan.cli.streams import answer_json, printable
from ciyuan.errors import DataError


def answer(
    model: Annotated[str, typer.Argument(help="The folder of a trained answerer.", metavar="MODEL")],
    question: Annotated[str | None, typer.Option("--question", "-q", help="What to answer.", metavar="Q")] = None,
    passage: Annotated[
        str | None, typer.Option("--passage", "-p", help="The text in which the answer is.", metavar="P")
    ] = None,
    input: Annotated[  # noqa: A002
        str | None,
        typer.Option("--input", "-i", help="A file of questions and passages, SQuAD's .json for one.", metavar="FILE"),
    ] = None,
    adapter: Adapter = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processor threads; default: torch's.", metavar="N")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line: question, answer, score, where it stands.")
    ] = False,
) -> None:
    """Answer a question about a passage; an empty line where the passage does not hold the answer."""
    if input is not None and (question or passage):
        raise DataError("questions came both as options and with --input", fix="give one of the two")
    if input is None and (question is None or passage is None):
        raise DataError("a question needs a passage", fix="give --question Q --passage P, or --input FILE")
    from ciyuan.api import load

    reader = load(model, adapter=adapter, threads=threads)
    reader.check_verb("answer")
    if input is None:
        asked = [(str(question), str(passage))]
    else:
        from ciyuan.data.readers import read_answers

        asked = [(record.fields["question"], record.fields["passage"]) for record in read_answers([input])]
        if not asked:
            raise DataError("holds no question", where=input)
    found = reader.answer([one for one, _ in asked], [other for _, other in asked])
    for (one, _), answered in zip(asked, found, strict=True):
        if as_json:
            said = {"question": one, "answer": answered.text, "score": round(answered.score, 4)}
            if answered.start is not None:
                said |= {"start": answered.start, "end": answered.end}
            answer_json(said)
        else:
            print(printable(answered.text))
