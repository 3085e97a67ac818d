"""`ciyuan tokenizer`: train, use and judge tokenisers."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from ciyuan.cli.commands import Commands
from ciyuan.cli.streams import answer, answer_json, chunks, say
from ciyuan.errors import TokenizerError, UserError, did_you_mean

app = typer.Typer(
    cls=Commands,
    help="Train, use and judge tokenisers.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)

ModelArgument = Annotated[str, typer.Argument(help="A model folder, or a tokenizer.json.", metavar="TOKENIZER")]
TextArgument = Annotated[
    list[str] | None, typer.Argument(help="The text; without it, the lines of stdin.", metavar="[TEXT]…")
]
InputOption = Annotated[str | None, typer.Option("--input", "-i", help="A file to read line by line.", metavar="FILE")]


@app.command("train")
def train(
    data: Annotated[
        list[str], typer.Argument(help="Files of text or pairs, as `ciyuan train` reads them.", metavar="FILE…")
    ],
    out: Annotated[str, typer.Option("--out", help="A new folder for tokenizer.json.", metavar="DIR")],
    kind: Annotated[str, typer.Option(help="char-bpe, unigram, bpe, wordpiece, characters or bytes.")] = "char-bpe",
    vocab_size: Annotated[int, typer.Option(min=1, help="Tokens in all.", metavar="N")] = 8000,
    max_memory_mb: Annotated[int, typer.Option(min=64, help="Ceiling for training.", metavar="N")] = 2048,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object instead of lines.")] = False,
) -> None:
    """Learn a tokeniser from text."""
    from pathlib import Path
    from typing import cast, get_args

    from ciyuan.data import Corpus, DataSettings
    from ciyuan.errors import DiskError
    from ciyuan.text import Tokenizer, TokenizerSettings
    from ciyuan.text.settings import Kind

    if kind not in get_args(Kind):
        raise UserError(
            f"there is no tokeniser of kind {kind}",
            where="--kind",
            allowed=f"kinds: {', '.join(get_args(Kind))}",
            fix=did_you_mean(kind, get_args(Kind)),
        )
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DiskError("is in use", where=folder, fix="name a new folder with --out: nothing is overwritten")
    texts = Corpus(DataSettings(train=tuple(data), dev=None), _shape(data)).texts()
    settings = TokenizerSettings(kind=cast("Kind", kind), vocab_size=vocab_size, max_memory_mb=max_memory_mb)
    tokenizer = Tokenizer.train(texts, settings)
    tokenizer.save(folder)
    read = tokenizer.sample
    assert read is not None
    if as_json:
        answer_json({
            "folder": str(folder), "kind": kind, "vocab_size": tokenizer.vocab_size, "used_bytes": read.used_bytes,
            "all_bytes": read.all_bytes, "fingerprint": tokenizer.fingerprint,
        })  # fmt: skip
        return
    if tokenizer.vocab_size < vocab_size:
        say(f"{tokenizer.vocab_size:,} tokens, not {vocab_size:,}: the text does not hold more")
    say(f"learnt from {read.used_bytes:,} of {read.all_bytes:,} bytes")
    answer(str(folder / "tokenizer.json"))


@app.command("encode")
def encode(
    tokenizer: ModelArgument,
    text: TextArgument = None,
    input: InputOption = None,  # noqa: A002
    pieces: Annotated[bool, typer.Option("--pieces", help="Tokens as the vocabulary spells them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line: text, ids, tokens.")] = False,
) -> None:
    """Text to ids: one line in, one line out."""
    from ciyuan.text import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    for lines in chunks(text or [], input):
        for line, ids in zip(lines, loaded.encode_batch(lines), strict=True):
            if as_json:
                answer_json({"text": line, "ids": ids, "tokens": [loaded.token(i) for i in ids]})
            else:
                answer(" ".join(loaded.token(i) if pieces else str(i) for i in ids))


@app.command("decode")
def decode(
    tokenizer: ModelArgument,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids; without them, the lines of stdin.", metavar="[ID]…")
    ] = None,
    input: InputOption = None,  # noqa: A002
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line: ids, text.")] = False,
) -> None:
    """Ids to text: one line in, one line out."""
    from ciyuan.text import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    for lines in chunks([" ".join(ids)] if ids else [], input):
        for line in lines:
            row = [_id(word, loaded.vocab_size) for word in line.replace(",", " ").split()]
            found = loaded.decode(row)
            answer(json.dumps({"ids": row, "text": found}, ensure_ascii=False) if as_json else found)


@app.command("report")
def show_report(
    tokenizer: ModelArgument,
    data: Annotated[list[str], typer.Argument(help="Files of text or pairs.", metavar="FILE…")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list, an object for each file and side.")] = False,
) -> None:
    """How well a tokeniser fits some text: fertility, coverage, rare characters, for each file and side."""
    from ciyuan.data import Corpus, DataSettings
    from ciyuan.text import Tokenizer
    from ciyuan.text.report import RARE, report

    loaded = Tokenizer.load(tokenizer)
    corpus = Corpus(DataSettings(train=tuple(data), dev=None), shape := _shape(data))
    sides = ["source", "target"] if shape == "pairs" else ["text"]
    found = [report(loaded, (record.fields[side] for record in corpus.train()), name=side) for side in sides]
    if as_json:
        answer(json.dumps([one.as_dict() for one in found], ensure_ascii=False))
        return
    for one in found:
        unit = "character" if one.per_character else "word"
        answer(f"{one.name}: {one.lines:,} lines, {one.characters:,} characters, {one.tokens:,} tokens")
        answer(
            f"  fertility        {one.tokens_per_word:.3f} tokens per {unit}, {one.bytes_per_token:.2f} bytes per token"
        )
        answer(f"  coverage         {one.coverage:.4%} of characters without spelling them in bytes")
        answer(f"  spelt in bytes   {' '.join(c for c, _ in one.spelt_in_bytes if c.isprintable()) or 'none'}")
        answer(f"  rare characters  {one.rare_characters:,} occur fewer than {RARE} times")
        answer(f"  vocabulary used  {one.used_vocabulary:.1%} of {loaded.vocab_size:,}")
        answer(f"  longest tokens   {'  '.join(one.longest)}")
        answer(f"  round trip       {'exact' if one.exact else 'NOT exact: some lines do not come back as they were'}")


def _shape(files: list[str]) -> Literal["pairs", "texts"]:
    """Plain .txt files are texts; whatever else these commands read is pairs, two plain files of a parallel corpus too."""
    from pathlib import Path

    return "texts" if all(".txt" in Path(file).suffixes for file in files) else "pairs"


def _id(word: str, vocab_size: int) -> int:
    if not word.isdecimal() or int(word) >= vocab_size:
        raise TokenizerError(f"{word} is no id of this tokeniser", allowed=f"ids are 0 … {vocab_size - 1}")
    return int(word)
