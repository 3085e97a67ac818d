"""The tokeniser that stands in the metadata of a GGUF file, both ways: BPE of bytes, and SentencePiece's BPE."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from ciyuan.errors import ModelFolderError, TokenizerError, UserError
from ciyuan.interop.gguf.architectures import Metadata
from ciyuan.interop.gguf.container import F32, I32, U32, Typed
from ciyuan.interop.gguf.cuts import CUTS, name_of
from ciyuan.interop.mapping import shown_name
from ciyuan.model.config import ModelConfig
from ciyuan.text import SpecialTokens, Tokenizer, chat
from ciyuan.text.pieces import SPACE
from ciyuan.text.special import NO_PAD, Role
from ciyuan.text.tokenizer import Template

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
ROLES: dict[Role, str] = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator", "cls": "cls", "mask": "mask",
}  # fmt: skip
"""Our roles to theirs, as they spell them."""
FRAMES: dict[tuple[bool, bool], Template] = {
    (False, False): "none", (True, False): "bos", (False, True): "eos", (True, True): "bos-eos",
}  # fmt: skip
"""What goes around a text, by add_bos_token and add_eos_token."""
NFC = {"type": "NFC"}
MOST_CHARACTERS = 2**23
"""In the pieces of a SentencePiece vocabulary, since each is tried at every cut. Those known have a quarter of that."""
PROBE = (
    "The capital of France is Paris, isn't it? I'LL say 3.14159 × 2026!", "  two  spaces\tand\n\n\nlines \r\n end  ",
    "中国的首都是北京，人口2189万。１２３", "def f(x):\n    return {'a': x ** 2}  # ok", "</s><|im_start|>",
    "naïve café e\u0301 Ǆ ﬁ ½ ٣ 🤖👩\u200d💻 \u200b\u00a0x",
)  # fmt: skip
"""Texts on which what is written is compared with what it was written from."""


@dataclass(frozen=True)
class Read:
    """A tokeniser, the ids that the model is to know of, and what is otherwise than in the file, in words.

    ends: tokens beside EOS that end what is generated: the end of a turn, and of a message to a tool.
    """

    tokenizer: Tokenizer
    ids: dict[str, int | None]
    ends: tuple[int, ...]
    notes: tuple[str, ...] = ()


def read_tokenizer(keys: Metadata, vocab_size: int) -> Read:
    """The tokeniser of a file whose table has vocab_size rows.

    BOS has its role where the file says that a text begins with it. PAD that is another role's token is none, as in a folder: rows
    are filled with EOS, and masked by position. Raises ModelFolderError where it cannot be used, naming the key.
    """
    build, begins = keys.choice("tokenizer.ggml.model", {"gpt2": (_of_bytes, None), "llama": (_of_pieces, True)}, "")
    tokens = keys.texts("tokenizer.ggml.tokens")
    if len(tokens) != vocab_size:
        raise ModelFolderError(f"{len(tokens):,} tokens for {vocab_size:,} rows of token_embd.weight", where=keys.where)
    twice, times = Counter(tokens).most_common(1)[0]
    if times > 1 or not all(tokens):
        found = shown_name(twice) if times > 1 else "an empty text"
        raise ModelFolderError(f"tokenizer.ggml.tokens has {found} {times} times", where=keys.where)
    kinds = keys.wholes("tokenizer.ggml.token_type", [NORMAL] * vocab_size)
    if len(kinds) != vocab_size:
        raise ModelFolderError(f"{len(kinds):,} values of token_type for {vocab_size:,} tokens", where=keys.where)
    while kinds and kinds[-1] == UNUSED and tokens[len(kinds) - 1] == _filler(len(kinds) - 1):
        kinds.pop()  # rows without a token
    vocabulary = dict(zip(tokens[: len(kinds)], kinds, strict=True))
    try:
        backend, usually = build(keys, vocabulary)
    except UserError:
        raise
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001  (a hostile vocabulary makes the library panic, past Exception)
        raise ModelFolderError(f"this is not a tokeniser: {shown_name(error)}", where=keys.where) from None
    special = [token for token, kind in vocabulary.items() if kind in (CONTROL, UNKNOWN)]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in vocabulary.items() if kind == USER_DEFINED]
    )
    starts = keys.flag("tokenizer.ggml.add_bos_token", usually if begins is None else begins)
    ends = keys.flag("tokenizer.ggml.add_eos_token", False)
    return _with_roles(keys, backend, vocabulary, special, starts=starts, ends=ends)


def _with_roles(
    keys: Metadata,
    backend: tokenizers.Tokenizer,
    vocabulary: Mapping[str, int],
    special: list[str],
    *,
    starts: bool,
    ends: bool,
) -> Read:
    texts = list(vocabulary)
    spelt: dict[str, str | None] = {}
    for role, theirs in ROLES.items():
        found = keys.optional(f"tokenizer.ggml.{theirs}_token_id", high=len(texts) - 1)
        spelt[role] = None if found is None else texts[found]
    if not starts:
        spelt["bos"] = None
    elif spelt["bos"] is None:
        raise ModelFolderError("a text is to begin with BOS, and bos_token_id is missing", where=keys.where)
    if spelt["eos"] is None:
        raise ModelFolderError(
            "tokenizer.ggml.eos_token_id is missing: where a text ends is not known", where=keys.where
        )
    notes: tuple[str, ...] = ()
    if spelt["pad"] in (None, *(spelling for role, spelling in spelt.items() if role != "pad")):
        spelt["pad"] = None
        notes = (NO_PAD,)
    roles = set(spelt.values())
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in roles if token is not None]
    )
    extra = tuple(token for token in special if token not in roles)
    tokenizer = Tokenizer(backend, SpecialTokens(**spelt, extra=extra))
    tokenizer.frame(FRAMES[starts, ends])
    tokenizer.chat_template = keys.text("tokenizer.chat_template")
    further = {keys.optional(f"tokenizer.ggml.{name}_token_id", high=len(texts) - 1) for name in ("eot", "eom")}
    # What only other ways of asking a model need: gaps to fill, by id; further templates; the original file.
    keys.ignore_like(r"tokenizer\.ggml\.(fim_\w+|prefix|suffix|middle)_(token_)?id")
    keys.ignore_like(r"tokenizer\.chat_template[s.].*|tokenizer\.huggingface\.json")
    bos_id = tokenizer.bos_id if starts else None
    ids = {"pad_id": tokenizer.pad_id, "bos_id": bos_id, "eos_id": tokenizer.eos_id}
    return Read(tokenizer, ids, tuple(sorted(end for end in further if end not in (None, tokenizer.eos_id))), notes)


def _filler(row: int) -> str:
    return f"[PAD{row}]"


def _of_bytes(keys: Metadata, vocabulary: Mapping[str, int]) -> tuple[tokenizers.Tokenizer, bool]:
    cut = keys.choice("tokenizer.ggml.pre", CUTS, "")
    merges: list[tuple[str, str]] = []
    for merge in keys.texts("tokenizer.ggml.merges"):
        first, _, second = merge.partition(" ")
        if not first or not second or " " in second:
            raise ModelFolderError(f"{shown_name(merge)} in tokenizer.ggml.merges is no pair", where=keys.where)
        merges.append((first, second))
    keys.must("tokenizer.ggml.add_space_prefix", False)
    keys.ignore("tokenizer.ggml.scores")  # some writers put noughts here
    ids = {token: number for number, token in enumerate(vocabulary)}
    backend = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=cut.whole_words))
    backend.pre_tokenizer = cut.build()
    backend.decoder = decoders.ByteLevel()
    return backend, cut.begins


def _of_pieces(keys: Metadata, vocabulary: Mapping[str, int]) -> tuple[tokenizers.Tokenizer, bool]:
    """SentencePiece's BPE: of all neighbours that make a piece together, those of the highest score are merged first."""
    scores = keys.numbers("tokenizer.ggml.scores")
    if len(scores) < len(vocabulary):
        raise ModelFolderError(f"{len(scores):,} scores for {len(vocabulary):,} tokens", where=keys.where)
    keys.must("tokenizer.ggml.pre", "default")
    keys.must("tokenizer.ggml.remove_extra_whitespaces", False)
    keys.ignore("tokenizer.ggml.merges")  # of no use to who has scores
    prefix = keys.flag("tokenizer.ggml.add_space_prefix", True)
    ids = {token: number for number, token in enumerate(vocabulary)}
    unknown = next((token for token, kind in vocabulary.items() if kind == UNKNOWN), None)
    merges = _merges(ids, [token for token, kind in vocabulary.items() if kind == NORMAL], scores, keys.where)
    backend = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    backend.normalizer = _spaces(prefix)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return backend, True


def _spaces(prefix: bool) -> Any:
    replace = normalizers.Replace(" ", SPACE)
    return normalizers.Sequence([normalizers.Prepend(SPACE), replace] if prefix else [replace])


def _merges(ids: Mapping[str, int], pieces: list[str], scores: list[float], where: object) -> list[tuple[str, str]]:
    if sum(map(len, pieces)) > MOST_CHARACTERS or max(map(len, pieces), default=0) > 2**10:
        raise ModelFolderError("its pieces are longer than those of any vocabulary known", where=where)
    known = set(pieces)
    found: list[tuple[float, int, int, int]] = []
    for piece in pieces:
        for place in range(1, len(piece)):
            first, second = piece[:place], piece[place:]
            if first in known and second in known:
                found.append((-scores[ids[piece]], ids[piece], ids[first], ids[second]))
    found.sort()
    texts = list(ids)
    return [(texts[first], texts[second]) for _, _, first, second in found]


# --- Out ---------------------------------------------------------------------------------------------------------------


def write_tokenizer(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, str | bool | list[str] | Typed]:
    """The metadata of a tokeniser. Raises ModelFolderError where no runtime would give the same ids."""
    found = json.loads(tokenizer.backend.to_str())
    model, added = found["model"], {each["content"]: each for each in found["added_tokens"]}
    texts = [tokenizer.token(number) for number in range(tokenizer.vocab_size)]
    kinds = [_kind(text, added) for text in texts]
    fillers = range(len(texts), config.vocab_size)
    metadata = _model_of(tokenizer.backend, found)
    pieces = metadata["tokenizer.ggml.model"] == "llama"
    if pieces:
        kinds = [
            BYTE if _is_byte(text) else UNKNOWN if text == model["unk_token"] else kind
            for text, kind in zip(texts, kinds)
        ]
        metadata["tokenizer.ggml.scores"] = Typed(F32, [*_scores(texts, model["merges"]), *(-1e9 for _ in fillers)])
    metadata["tokenizer.ggml.tokens"] = [*texts, *map(_filler, fillers)]
    metadata["tokenizer.ggml.token_type"] = Typed(I32, [*kinds, *(UNUSED for _ in fillers)])
    if not pieces:
        metadata["tokenizer.ggml.merges"] = [" ".join(merge) for merge in model["merges"]]
    for role, theirs in ROLES.items():
        if tokenizer.has(role):
            metadata[f"tokenizer.ggml.{theirs}_token_id"] = Typed(U32, tokenizer.id_of(role))
    if not tokenizer.has("bos"):  # or a runtime would take its own default for it
        metadata["tokenizer.ggml.bos_token_id"] = Typed(U32, tokenizer.eos_id)
    metadata["tokenizer.ggml.add_bos_token"] = tokenizer.has("bos")
    metadata["tokenizer.ggml.add_eos_token"] = False  # a prompt is gone on with
    if set(chat.MARKERS) <= set(tokenizer.special.extra):
        metadata["tokenizer.ggml.eot_token_id"] = Typed(U32, chat.end_id(tokenizer))
    template = json.loads(tokenizer.files()["tokenizer_config.json"]).get("chat_template")
    if isinstance(tokenizer.chat_template, dict):  # several by name, of which a file has the usual one
        template = tokenizer.chat_template.get("default")
    if isinstance(template, str):
        metadata["tokenizer.chat_template"] = template
    _check(tokenizer, metadata, config)
    return metadata


def composes(tokenizer: Tokenizer) -> bool:
    """Whether it composes characters first, as Qwen's do, for which GGUF has no place: what is written so already has equal ids."""
    return json.loads(tokenizer.backend.to_str())["normalizer"] == NFC  # type: ignore[no-any-return]


def _model_of(backend: tokenizers.Tokenizer, found: Mapping[str, Any]) -> dict[str, str | bool | list[str] | Typed]:
    model, normal = found["model"], found["normalizer"]
    plain = model["type"] == "BPE" and not any(
        model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    )
    if plain and not model["byte_fallback"] and normal in (None, NFC) and (name := name_of(backend)) is not None:
        return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name}
    for prefix in (True, False):
        other = tokenizers.Tokenizer(models.BPE())
        other.normalizer = _spaces(prefix)
        same = normal == json.loads(other.to_str())["normalizer"] and found["pre_tokenizer"] is None
        if plain and model["byte_fallback"] and same:
            kind: dict[str, str | bool | list[str] | Typed] = {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.pre": "default",
            }
            return kind | {"tokenizer.ggml.add_space_prefix": prefix}
    raise ModelFolderError(
        "GGUF runtimes know no tokeniser that cuts and normalises as this one does",
        allowed="BPE of bytes with the cut of qwen2, gpt-2, smollm or llama-bpe, and SentencePiece's BPE, are known",
        fix="train with tokenizer.kind: bpe",
    )


def _kind(text: str, added: Mapping[str, Mapping[str, Any]]) -> int:
    if text not in added:
        return NORMAL
    if added[text]["special"]:
        return CONTROL
    if added[text]["lstrip"] or added[text]["rstrip"] or added[text]["single_word"]:
        raise ModelFolderError(f"GGUF has no place for how the token {shown_name(text)} takes the spaces around it")
    return USER_DEFINED


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _scores(texts: list[str], merges: list[list[str]]) -> list[float]:
    """Scores that merge in the same order: the rank of the first merge that makes a piece, below 0."""
    ranks: dict[str, int] = {}
    for rank, (first, second) in enumerate(merges, start=1):
        ranks.setdefault(first + second, rank)
    return [float(-ranks.get(text, 0)) for text in texts]


def _check(tokenizer: Tokenizer, metadata: Mapping[str, str | bool | list[str] | Typed], config: ModelConfig) -> None:
    plain = {key: value.value if isinstance(value, Typed) else value for key, value in metadata.items()}
    try:
        again = read_tokenizer(Metadata(plain, None), config.vocab_size).tokenizer
    except (ModelFolderError, TokenizerError) as error:
        raise ModelFolderError(f"GGUF cannot hold this tokeniser: {error.found}", fix="choose --format hf") from None
    for text in PROBE:
        text = unicodedata.normalize("NFC", text) if composes(tokenizer) else text
        if again.encode(text) != tokenizer.encode(text):
            raise ModelFolderError(f"a GGUF runtime would not give the same ids for {text!r}", fix="choose --format hf")
