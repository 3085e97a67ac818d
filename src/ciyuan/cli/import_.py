"""`ciyuan import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ciyuan.cli.streams import answer, answer_json, printable

if TYPE_CHECKING:
    from ciyuan.interop import Loaded

USES = {
    "fill": "ciyuan fill {out} TEXT", "generate": "ciyuan generate {out} --prompt TEXT", "translate": "ciyuan translate {out} TEXT",
    "chat": "ciyuan chat {out}", "classify": "ciyuan classify {out} TEXT",
    "answer": "ciyuan answer {out} --question Q --passage P", "embed": "ciyuan embed {out} TEXT",
}  # fmt: skip


def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face folder, a .gguf file, a folder of the hub's cache, or the name of a model on the hub.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[str, typer.Option("--out", help="A new folder for the model.", metavar="DIR")],
    as_json: Annotated[bool, typer.Option("--json", help="What was read, as a JSON object.")] = False,
) -> None:
    """Take a model of another tool, ready for every command. Nothing that comes with it is run."""
    from ciyuan.errors import DiskError

    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DiskError("is in use", where=folder, fix="name a new folder with --out: nothing is overwritten")

    import ciyuan
    from ciyuan.api import verbs
    from ciyuan.data.folders import new_folder
    from ciyuan.interop import save_model_folder
    from ciyuan.interop.sources import read_source, write_card
    from ciyuan.text import chat

    read = read_source(source)
    loaded = read.loaded
    does = verbs(loaded.model.config, loaded.info.get("task"))
    if not all(loaded.tokenizer.backend.token_to_id(marker) is not None for marker in chat.MARKERS):
        does = [verb for verb in does if verb != "chat"]
    uses = [USES[verb].format(out=out) for verb in does]
    info = {**loaded.info, "provenance": read.provenance, "ciyuan": ciyuan.__version__}
    with new_folder(folder, lambda _: False) as draft:
        card = write_card(read, [USES[verb].format(out="THIS_FOLDER") for verb in does])
        save_model_folder(draft, loaded.model, loaded.tokenizer, info, card)
    facts = _facts(loaded) | {"verbs": does, "folder": out}
    if as_json:
        answer_json(facts)
        return
    for line in (*_as_text(facts), f"written to {out}; what it can do:", *(f"  {use}" for use in uses)):
        answer(printable(line))


def _facts(loaded: Loaded) -> dict[str, Any]:
    config, tokenizer = loaded.model.config, loaded.tokenizer
    return {
        "origin": loaded.origin,
        "family": config.family,
        "layers": config.encoder_layers + config.decoder_layers,
        "d_model": config.d_model,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "head": config.head,
        "labels": loaded.info.get("labels"),
        "tokenizer": type(tokenizer.backend.model).__name__,
        "vocabulary": tokenizer.vocab_size,
        "special": dict(tokenizer.special.by_role()),
        "chat_template": tokenizer.chat_template is not None,
        "notes": list(loaded.notes),
    }


def _as_text(facts: dict[str, Any]) -> list[str]:
    labels = f" of {len(facts['labels'])} labels" if facts["labels"] else ""
    special = ", ".join(f"{role.upper()} {text}" for role, text in facts["special"].items())
    read = f"read {facts['origin']}: {facts['family']}, {facts['layers']} layers of width {facts['d_model']}"
    tokens = f"tokeniser: {facts['tokenizer']}, {facts['vocabulary']:,} tokens; {special}"
    lines = [
        f"{read}, {facts['parameters']:,} parameters; head: {facts['head']}{labels}",
        f"{tokens}; with a chat template" if facts["chat_template"] else tokens,
    ]
    return [*lines, *(f"note: {note}" for note in facts["notes"])]
