"""SentencePiece models that only cut a text, where a list beside them, vocab.json, numbers the pieces: Marian's and M2M100's.

    text ─ pieces of the model ─ ids of the list; what is in no piece is cut out as a whole, and has an id if the list has it

The list may have more than the model: what only the other language is cut into, names of languages. Those rows are spelt with a
mark in front, which no text has. Of Marian, source.spm cuts what is read, and is what a tokeniser of ours knows; target.spm cuts
what a model learns to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tokenizers
from tokenizers import Regex, normalizers

from ciyuan.errors import TokenizerError
from ciyuan.text.files import GET_AGAIN, Files
from ciyuan.text.imported import (
    LARGEST,
    MOST_IDS,
    Roles,
    Settings,
    put_around,
    read_model,
    sentencepiece_backend,
)
from ciyuan.text.pieces import SPACE
from ciyuan.text.sentencepiece import Piece, SentencePieceModel, parse_sentencepiece

UNMET, CODE, STRANGER = "\U0010ffff", "\U0010fffe", "\U000fffff"
"""No characters, and in no text that is meant for reading; there they are a STRANGER, which no model knows. UNMET stands before
what no text is cut into, CODE for the >> of a language."""

LANGUAGES: Mapping[str, tuple[str, ...]] = {
    "m2m100": (
        "af", "am", "ar", "ast", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "ceb", "cs", "cy", "da", "de",
        "el", "en", "es", "et", "fa", "ff", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he", "hi", "hr",
        "ht", "hu", "hy", "id", "ig", "ilo", "is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "lb", "lg",
        "ln", "lo", "lt", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "my", "ne", "nl", "no", "ns", "oc", "or",
        "pa", "pl", "ps", "pt", "ro", "ru", "sd", "si", "sk", "sl", "so", "sq", "sr", "ss", "su", "sv", "sw",
        "ta", "th", "tl", "tn", "tr", "uk", "ur", "uz", "vi", "wo", "xh", "yi", "yo", "zh", "zu",
    ),
    "wmt21": ("en", "ha", "is", "ja", "cs", "ru", "zh", "de"),
}  # fmt: skip
"""By language_codes, in the order of their ids, which follow those of vocab.json."""


def read_marian(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """A text, </s>; before it, in models that write several languages, the name of one: >>fra<<."""
    if settings.get("separate_vocabs"):
        raise TokenizerError(
            "separate_vocabs is set: what is read and what is written have ids of their own", where=files.path,
            allowed="one vocab.json for both",
        )  # fmt: skip
    ids = _ids(files)
    backend = _renumbered(_spm(files, "source.spm"), ids, roles.values(), _codes(ids), files)
    put_around(backend, [], [roles["eos"]], between=[])
    return backend


def read_m2m100(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """The language of a text, the text, </s>."""
    ids = _ids(files)
    codes = settings.get("language_codes") or "m2m100"
    if codes not in LANGUAGES:
        raise TokenizerError(f"language_codes is {ascii(codes)[:40]}", where=files.path, allowed=", ".join(LANGUAGES))
    spelt = {code: f"__{code}__" for code in LANGUAGES[codes]}
    if twice := set(spelt.values()) & set(ids):
        raise TokenizerError(f"has the language {min(twice)} itself", where=files.path / "vocab.json")
    language = settings.get("src_lang") or "en"
    if language not in spelt:
        raise TokenizerError(f"src_lang is {ascii(language)[:40]}", where=files.path, allowed=", ".join(spelt))
    numbers = {text: len(ids) + i for i, text in enumerate(spelt.values())}
    backend = _renumbered(read_model(files), {**ids, **numbers}, {*roles.values(), *numbers}, (), files)
    put_around(backend, [spelt[language]], [roles["eos"]], between=[])
    return backend


def reads_only(files: Files) -> bool:
    """Whether what such a model writes is cut otherwise than what it reads."""
    source, target = (files.read_bytes(name, LARGEST) for name in ("source.spm", "target.spm"))
    return source is not None and source != target


def strangers(files: Files) -> str | None:
    """What is to be said of pieces that the list does not number; None where it numbers all."""
    ids = _ids(files)
    model = _spm(files, "source.spm") if files.find("source.spm") is not None else read_model(files)
    n = sum(piece.spelling not in ids for piece in model.pieces if piece.kind in ("normal", "user-defined"))
    if not n:
        return None
    return f"{n:,} pieces of the SentencePiece model are not in vocab.json: others are read instead, where transformers reads <unk>"


def _ids(files: Files) -> dict[str, int]:
    where = files.path / "vocab.json"
    ids = files.read_json("vocab.json")
    if ids is None:
        raise TokenizerError("there is no vocab.json beside the SentencePiece model", where=files.path)
    if len(ids) > MOST_IDS or sorted(map(str, ids.values())) != sorted(map(str, range(len(ids)))):
        raise TokenizerError("does not number its pieces from 0 on", where=where, fix=GET_AGAIN)
    return {text: int(number) for text, number in ids.items()}


def _spm(files: Files, name: str) -> SentencePieceModel:
    raw = files.read_bytes(name, LARGEST)
    if raw is None:
        raise TokenizerError(f"there is no {name}", where=files.path)
    return parse_sentencepiece(raw, where=files.path / name)


def _codes(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in ids if text.startswith(">>") and text.endswith("<<") and len(text) > 4)


def _renumbered(
    model: SentencePieceModel, ids: Mapping[str, int], special: Iterable[str], codes: Sequence[str], files: Files
) -> tokenizers.Tokenizer:
    """special: the tokens that no text has. codes: those that stand before a text, as text."""
    known = {piece.spelling: piece for piece in model.pieces if piece.kind in ("normal", "user-defined", "byte")}
    unk = model.pieces[model.unk]
    if unk.spelling not in ids:
        raise TokenizerError(
            f"has no {ascii(unk.spelling)[1:-1]}, which stands for what is unknown", where=files.path / "vocab.json"
        )
    letters, special = {text for text in known if len(text) == 1}, set(special)
    wholes: list[str] = []
    pieces: list[Piece] = []
    for text in sorted(ids, key=ids.__getitem__):
        if text == unk.spelling:
            pieces.append(unk)
        elif text in special:
            pieces.append(Piece(text, kind="control"))
        elif text in known:
            pieces.append(known[text])
        elif text in codes:
            pieces.append(Piece(_marked(text), score=-1.0))
        elif letters.isdisjoint(text) and not model.byte_fallback:  # else nothing is unknown
            wholes.append(text)
            pieces.append(Piece(text, score=-1.0))  # of one or several that make up a run, one is the likeliest
        else:
            pieces.append(Piece(UNMET + text, kind="unused"))
    if model.algorithm == "bpe":
        _check_merges(known, ids, wholes, files)
    before: list[Any] = [normalizers.Replace(Regex(f"[{UNMET}{CODE}]"), STRANGER)]
    after: list[Any] = []
    if codes:
        before += _read_codes(codes, unknown=not model.byte_fallback)
        after += [normalizers.Replace(SPACE + CODE, CODE), normalizers.Replace(CODE + STRANGER, STRANGER)]
    if wholes:
        after.append(_strangers(wholes, letters))
    return sentencepiece_backend(
        replace(model, pieces=tuple(pieces)), before=before, after=after, spelt={CODE: ">>", UNMET: ""}
    )


def _marked(code: str) -> str:
    """>>fra<< as the row of the vocabulary spells it."""
    return CODE + code.removeprefix(">>")


def _read_codes(codes: Sequence[str], *, unknown: bool) -> list[Any]:
    """>>fra<< at the beginning is one piece, and what comes after it is cut as if it began there.

    unknown: another name there is one <unk>; else, where a text is never unknown, it is text.
    """
    names = [(re.escape(code), _marked(code)) for code in codes] + [(">>(?m:.*?)<<", CODE + STRANGER)] * unknown
    steps: list[Any] = []
    for pattern, content in names:
        steps.append(normalizers.Replace(Regex(rf"\A{pattern}\z"), content))
        steps.append(normalizers.Replace(Regex(rf"\A{pattern}"), content + " "))
    return steps


def _strangers(wholes: Sequence[str], letters: Iterable[str]) -> Any:
    """A run of characters that are in no piece is one stranger, unless all of it is in the list."""
    known = "".join(re.escape(letter) for letter in sorted(letters))
    strange = f"[^{known}{CODE}]" if known else f"[^{CODE}]"
    listed = "|".join(re.escape(text) for text in sorted(wholes, key=len, reverse=True))
    return normalizers.Replace(Regex(f"(?<!{strange})(?!(?:{listed})(?!{strange})){strange}+"), STRANGER)


def _check_merges(known: Mapping[str, Piece], ids: Mapping[str, int], wholes: Sequence[str], files: Files) -> None:
    """BPE comes to a piece by way of others: all of them need a number. Raises TokenizerError."""
    where = files.path / "vocab.json"
    if wholes:
        raise TokenizerError(f"has {ascii(wholes[0])[:40]}, which the BPE beside it has not", where=where)
    missing = {text for text in known if text not in ids}
    for text in known if missing else ():
        parts = {part for i in range(1, len(text)) for part in (text[:i], text[i:])}
        if text in ids and parts & missing:
            raise TokenizerError(
                f"does not number {ascii(min(parts & missing))[:40]}, of which the model makes other pieces", where=where,
                fix=GET_AGAIN,
            )  # fmt: skip
