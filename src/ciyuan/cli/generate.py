"""`ciyuan generate`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ciyuan.cli.options import Adapter
from ciyuan.cli.streams import answer_json, chunks, printable, say


def generate(
    model: Annotated[str, typer.Argument(help="The folder of a trained model.", metavar="MODEL")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", help="Text to continue; repeats. Without it, each line of stdin is one.", metavar="TEXT"
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens written.", metavar="N")] = 128,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, help="Above 1 bolder, below 1 safer; 0 always takes the likeliest token.", metavar="T"
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among the K likeliest tokens.", metavar="K")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Draw among the likeliest tokens that together have probability P.", metavar="P"
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Draw among tokens at least P times as likely as the likeliest.", metavar="P"),
    ] = None,
    repetition_penalty: Annotated[
        float,
        typer.Option(min=0.01, max=100, help="Above 1 makes tokens that stand there already less likely.", metavar="X"),
    ] = 1.0,
    no_repeat_ngram: Annotated[
        int, typer.Option(min=0, help="Write no N tokens in a row twice; 0: no such rule.", metavar="N")
    ] = 0,
    beam: Annotated[int, typer.Option(min=1, max=64, help="Texts written side by side; 1 is greedy.", metavar="N")] = 1,
    length_penalty: Annotated[
        float, typer.Option(min=0, max=5, help="Of beam search: above 1 favours long texts, below short.", metavar="X")
    ] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Stop before this text; repeats.", metavar="S")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn: the same seed, the same text.", metavar="N")] = 0,
    adapter: Adapter = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processor threads; default: torch's.", metavar="N")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object for each prompt: text, finish_reason, usage.")
    ] = False,
) -> None:
    """Continue a text. Greedy, unless --temperature, --top-k, --top-p or --min-p asks to draw."""
    options: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "no_repeat_ngram": no_repeat_ngram, "beam": beam, "length_penalty": length_penalty, "stop": tuple(stop or ()),
        "seed": seed,
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    from ciyuan.api import load

    writer = load(model, adapter=adapter, threads=threads)
    writer.check_verb("generate")
    if prompt and len(prompt) == 1 and not as_json and beam == 1:
        print(prompt[0] if writer.config.family == "decoder" else "", end="", flush=True)
        for piece in writer.stream(prompt[0], **options):
            print(piece, end="", flush=True)
        print()
        return
    for some in [list(prompt)] if prompt else chunks([], None):
        for text, found in zip(some, writer.generations(some, **options), strict=True):
            if as_json:
                answer_json(
                    {"prompt": text, "text": found.text, "finish_reason": found.finish_reason,
                     "usage": {"prompt_tokens": found.n_prompt, "completion_tokens": len(found.tokens)},
                     "log_probs": [round(value, 5) for value in found.log_probs]}
                )  # fmt: skip
            else:
                print(" ".join(found.text.splitlines()), flush=True)
    if not prompt and sys.stdin is not None and sys.stdin.isatty():
        say(printable("no prompt was given"))
