"""`ciyuan chat`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ciyuan.cli.options import Adapter
from ciyuan.cli.streams import say


def chat(
    model: Annotated[str, typer.Argument(help="The folder of a model trained to chat.", metavar="MODEL")],
    system: Annotated[str | None, typer.Option(help="What the assistant is told beforehand.", metavar="TEXT")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.", metavar="N")] = 256,
    temperature: Annotated[
        float,
        typer.Option(
            min=0, max=100, help="Above 1 bolder, below 1 safer; 0 always takes the likeliest token.", metavar="T"
        ),
    ] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw among the likeliest tokens.", metavar="P")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.", metavar="N")] = 0,
    adapter: Adapter = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processor threads; default: torch's.", metavar="N")
    ] = None,
) -> None:
    """Converse: a line is your turn; the answer follows as it is written. An empty line forgets, Ctrl-D ends."""
    from ciyuan.api import load

    assistant = load(model, adapter=adapter, threads=threads)
    assistant.check_verb("chat")
    beginning = [] if system is None else [{"role": "system", "content": system}]
    messages = list(beginning)
    keyboard = sys.stdin is not None and sys.stdin.isatty()
    if keyboard:
        say("an empty line begins anew; Ctrl-D ends")
    while True:
        if keyboard:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            return
        said = line.rstrip("\r\n")
        if not said.strip():
            messages = list(beginning)
            continue
        messages.append({"role": "user", "content": said})
        answer = ""
        for piece in assistant.chat_stream(
            messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
        ):
            print(piece, end="", flush=True)
            answer += piece
        print(flush=True)
        messages.append({"role": "assistant", "content": answer})
