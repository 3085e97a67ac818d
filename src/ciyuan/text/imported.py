"""Tokenisers of other tools, as the library's: WordPiece lists, byte-level merges, SentencePiece models.

Ids are those of the tool that the model was made with. How a special token is spelt is text here as everywhere: where a model of
another tool would find such a token in a text, the text is cut within it (`_cut`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import PreTokenizer

from ciyuan.errors import TokenizerError
from ciyuan.text.files import Files
from ciyuan.text.pieces import SPACE, qwen2_cut
from ciyuan.text.sentencepiece import Piece, SentencePieceModel, parse_sentencepiece
from ciyuan.text.special import Role

LARGEST = 256 << 20
"""Bytes of a file that holds a vocabulary."""
MOST_IDS = 2**22
"""The largest vocabularies known have a quarter of that."""

Roles = Mapping[Role, str]
Settings = Mapping[str, Any]
Builder = Callable[[Files, Roles, Settings], tokenizers.Tokenizer]


# --- WordPiece ----------------------------------------------------------------------------------------------------------


def read_wordpiece(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """vocab.txt: a token a line, its id the line's number."""
    where = files.path / "vocab.txt"
    lines = io.StringIO(_text(files, "vocab.txt"), newline=None)  # as a text file is read: all line ends are one
    vocab = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    if settings.get("do_basic_tokenize") is False or settings.get("never_split"):
        raise TokenizerError("do_basic_tokenize or never_split is set", where=where, allowed="the usual cut of BERT")
    unk = roles["unk"]
    if unk not in vocab:
        raise TokenizerError(f"{unk!a} is no line of it, and stands for what is unknown", where=where)
    backend = _built(lambda: tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=unk)), where)
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(settings, "tokenize_chinese_chars", True),
        strip_accents=_flag(settings, "strip_accents", None),
        lowercase=_flag(settings, "do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    put_around(backend, [roles["cls"]], [roles["sep"]], second=1)
    return backend


# --- Merges of bytes ----------------------------------------------------------------------------------------------------


def read_gpt2(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """vocab.json and merges.txt, with GPT-2's cut."""
    backend = _read_merges(files)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=_prefixed(settings))
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def read_roberta(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """As GPT-2, between <s> and </s>; two texts are parted by two </s>."""
    backend = _read_merges(files)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=_prefixed(settings))
    sep, cls = ((roles[role], _id(backend, roles[role])) for role in ("sep", "cls"))
    trim = bool(_flag(settings, "trim_offsets", True))
    backend.post_processor = processors.RobertaProcessing(sep, cls, trim, _prefixed(settings))
    return backend


def read_qwen2(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """vocab.json and merges.txt, with Qwen2's cut."""
    backend = _read_merges(files)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = qwen2_cut()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _read_merges(files: Files) -> tokenizers.Tokenizer:
    where = files.path / "vocab.json"
    vocab = files.read_json("vocab.json")
    if vocab is None:
        raise TokenizerError("there is no vocab.json beside merges.txt", where=files.path)
    if not all(type(number) is int and 0 <= number < MOST_IDS for number in vocab.values()):
        raise TokenizerError(f"has ids that are no whole numbers from 0 to {MOST_IDS:,}", where=where)
    if len(set(vocab.values())) != len(vocab):
        raise TokenizerError("has an id twice", where=where)
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(_text(files, "merges.txt").split("\n"), start=1):
        parts = line.removesuffix("\r").split(" ")
        if line.startswith("#version") or parts == [""]:
            continue
        if len(parts) != 2:
            raise TokenizerError("is no pair of pieces", where=f"{files.path / 'merges.txt'}:{number}")
        merges.append((parts[0], parts[1]))
    backend = _built(lambda: tokenizers.Tokenizer(models.BPE(vocab, merges)), where)
    backend.decoder = decoders.ByteLevel()
    return backend


def _prefixed(settings: Settings) -> bool:
    return bool(_flag(settings, "add_prefix_space", False))


# --- SentencePiece ------------------------------------------------------------------------------------------------------

SPM_NAMES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "sentencepiece.model")
MBART = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
)  # fmt: skip
MBART50 = (
    *MBART,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN",
    "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK",
    "xh_ZA", "gl_ES", "sl_SI",
)  # fmt: skip
"""The languages of mBART and mBART-50, in the order of their ids."""


def read_plain(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """A SentencePiece model whose ids are those of its pieces; nothing around a text."""
    return sentencepiece_backend(read_model(files))


def read_llama(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    model = read_model(files)
    prefix = _flag(settings, "add_prefix_space", None)
    backend = sentencepiece_backend(model if prefix is None else replace(model, add_dummy_prefix=prefix))
    put_around(backend, [roles["bos"]], [])
    return backend


def read_t5(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """The pieces, then the sentinels, <extra_id_0> last."""
    model = read_model(files)
    n = settings.get("extra_ids", 100)
    if type(n) is not int or not 0 <= n <= 10_000:
        raise TokenizerError(f"extra_ids is {ascii(n)[:40]}", where=files.path / "tokenizer_config.json")
    sentinels = (Piece(f"<extra_id_{i}>", kind="control") for i in reversed(range(n)))
    backend = sentencepiece_backend(_joined(model, (*model.pieces, *sentinels), files))
    put_around(backend, [], [roles["eos"]])
    return backend


def read_xlm_roberta(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    backend = sentencepiece_backend(_fairseq(read_model(files), ["<mask>"], files))
    put_around(backend, [roles["cls"]], [roles["sep"]], between=2 * [roles["sep"]])
    return backend


def read_mbart(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """A text, </s>, its language."""
    backend = sentencepiece_backend(_fairseq(read_model(files), [*MBART, "<mask>"], files))
    put_around(backend, [], [roles["eos"], _language(settings, MBART)], between=[])
    return backend


def read_mbart50(files: Files, roles: Roles, settings: Settings) -> tokenizers.Tokenizer:
    """Its language, a text, </s>."""
    backend = sentencepiece_backend(_fairseq(read_model(files), [*MBART50, "<mask>"], files))
    put_around(backend, [_language(settings, MBART50)], [roles["eos"]], between=[])
    return backend


def _language(settings: Settings, known: Sequence[str]) -> str:
    found = settings.get("src_lang") or "en_XX"
    if found not in known:
        raise TokenizerError(
            f"src_lang is {ascii(found)[:40]}", where="tokenizer_config.json", allowed=", ".join(known)
        )
    return str(found)


def read_model(files: Files) -> SentencePieceModel:
    for name in SPM_NAMES:
        raw = files.read_bytes(name, LARGEST)
        if raw is not None:
            return parse_sentencepiece(raw, where=files.path / name)
    raise TokenizerError("there is no SentencePiece model", where=files.path, allowed=", ".join(SPM_NAMES))


def _fairseq(model: SentencePieceModel, last: Sequence[str], files: Files) -> SentencePieceModel:
    """The ids that fairseq gave: four special tokens of its own, the pieces but for the first three, further tokens."""
    if [piece.spelling for piece in model.pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise TokenizerError("does not begin with <unk>, <s> and </s>, as the ids of this kind need", where=files.path)
    first = (
        Piece("<s>", kind="control"),
        Piece("<pad>", kind="control"),
        Piece("</s>", kind="control"),
        model.pieces[0],
    )
    return _joined(model, (*first, *model.pieces[3:], *(Piece(text, kind="control") for text in last)), files)


def _joined(model: SentencePieceModel, pieces: tuple[Piece, ...], files: Files) -> SentencePieceModel:
    if len({piece.spelling for piece in pieces}) != len(pieces):
        raise TokenizerError("has itself a piece that its kind adds", where=files.path)
    return replace(model, pieces=pieces)


def sentencepiece_backend(
    model: SentencePieceModel,
    *,
    before: Sequence[Any] = (),
    after: Sequence[Any] = (),
    spelt: Mapping[str, str] | None = None,
) -> tokenizers.Tokenizer:
    """The same ids as SentencePiece gives, for any text but one that its normaliser composes of many marks.

    before, after: further normalisers, around its own. spelt: what is read for marks within pieces.
    Its steps: the table of characters; spaces at the ends away and several as one; spaces as ▁, and one more in front.
    """
    if not model.escape_whitespaces:
        raise TokenizerError("escape_whitespaces is off", allowed="models that spell a space as ▁")
    backend = tokenizers.Tokenizer(_unigram(model) if model.algorithm == "unigram" else _bpe(model))
    steps: list[Any] = [*before, *([normalizers.Precompiled(model.charsmap)] if model.charsmap else [])]
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(pattern), content) for pattern, content in
                  ((" {2,}", " "), (r"\A +", ""), (rf"[ {SPACE}]+\z", ""))]  # fmt: skip
    steps.append(normalizers.Replace(" ", SPACE))
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    backend.normalizer = normalizers.Sequence([*steps, *after])
    cuts = _cuts(model)
    if cuts:
        backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(mark, text) for mark, text in (spelt or {}).items()]
        + [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if model.add_dummy_prefix or model.remove_extra_whitespaces else [])
    )
    special = [piece.spelling for piece in model.pieces if piece.kind in ("control", "unknown")]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return backend


def _unigram(model: SentencePieceModel) -> Any:
    """What is no text has the score 0 and is never met, for the text is cut within its spelling."""
    best = max((piece.score for piece in model.pieces if piece.kind == "normal"), default=0.0)
    # As many digits as a float32 has: of more, tokenizer.json would be read again with other last bits than it was written with.
    vocab = [(piece.spelling, float(f"{_score(piece, best):.9g}")) for piece in model.pieces]
    return models.Unigram(vocab, unk_id=model.unk, byte_fallback=model.byte_fallback)


def _score(piece: Piece, best: float) -> float:
    """best: the highest score of a normal piece, by which SentencePiece scores what its user has defined."""
    if piece.kind == "user-defined":
        return len(piece.spelling.encode()) * best - 0.1
    return piece.score if piece.kind == "normal" else 0.0


def _bpe(model: SentencePieceModel) -> Any:
    """SentencePiece knows no merges, only pieces: any two neighbours that make one are merged, the best score first."""
    vocab = {piece.spelling: number for number, piece in enumerate(model.pieces)}
    normal = {piece.spelling for piece in model.pieces if piece.kind == "normal"}
    order = sorted((piece for piece in model.pieces if piece.kind == "normal"),
                   key=lambda piece: (-piece.score, vocab[piece.spelling]))  # fmt: skip
    merges = [
        (piece.spelling[:i], piece.spelling[i:])
        for piece in order
        for i in range(1, len(piece.spelling))
        if piece.spelling[:i] in normal and piece.spelling[i:] in normal
    ]
    return models.BPE(
        vocab, merges, unk_token=model.pieces[model.unk].spelling, fuse_unk=True, byte_fallback=model.byte_fallback,
        ignore_merges=any(piece.kind == "user-defined" for piece in model.pieces),
    )  # fmt: skip


def _cuts(model: SentencePieceModel) -> list[PreTokenizer]:
    """Where a text is parted before its pieces are found; such that no piece is lost but one that must not be found."""
    cuts: list[PreTokenizer] = []
    of_user = sorted((piece.spelling for piece in model.pieces if piece.kind == "user-defined"), key=len, reverse=True)
    if model.algorithm == "bpe" and of_user:  # Unigram takes them by their score
        cuts.append(pre_tokenizers.Split(Regex("|".join(map(re.escape, of_user))), "isolated"))
    text = [piece.spelling for piece in model.pieces if piece.kind in ("normal", "user-defined")]
    if model.algorithm == "unigram" or of_user:
        cuts += _cut([piece.spelling for piece in model.pieces if piece.kind in ("control", "unknown", "byte")], text)
    if model.algorithm == "unigram" and SPACE in text and not any(SPACE in piece[1:] for piece in text):
        cuts.append(pre_tokenizers.Split(SPACE, "merged_with_next"))  # no piece goes beyond: the same, and quicker
    return cuts


def _cut(spellings: Sequence[str], text: Sequence[str]) -> list[PreTokenizer]:
    """Within whatever spells one of these, so that it is read as text: where no piece of text would go across.

    '</s>' → '</' 's>'    where '/s' is in no piece, and one of the two is a piece: else both would be one unknown
    """
    pairs = {piece[i : i + 2] for piece in text for i in range(len(piece) - 1)}
    known = {piece for piece in text if len(piece) == 1}
    rest: dict[str, list[str]] = {}
    for spelling in spellings:
        if len(spelling) > 1:
            places = range(1, len(spelling))
            apart = (i for i in places if spelling[i - 1 : i + 1] not in pairs and known & {*spelling[i - 1 : i + 1]})
            place = next(apart, 1)
            rest.setdefault(spelling[:place], []).append(re.escape(spelling[place:]))
    pattern = "|".join(f"{re.escape(first)}(?={'|'.join(others)})" for first, others in rest.items())
    return [pre_tokenizers.Split(Regex(pattern), "merged_with_previous")] if rest else []


# --- All of them --------------------------------------------------------------------------------------------------------


def put_around(
    backend: tokenizers.Tokenizer,
    head: Sequence[str],
    tail: Sequence[str],
    *,
    between: Sequence[str] | None = None,
    second: int = 0,
) -> None:
    """What goes around a text. between: two texts; by default what ends one. second: the token type of the second text."""
    middle = tail if between is None else between
    backend.post_processor = processors.TemplateProcessing(
        single=[*head, "$A:0", *tail],
        pair=[*head, "$A:0", *middle, f"$B:{second}", *(f"{text}:{second}" for text in tail)],
        special_tokens=[(text, _id(backend, text)) for text in dict.fromkeys((*head, *tail, *middle))],
    )


def _id(backend: tokenizers.Tokenizer, spelling: str) -> int:
    found = backend.token_to_id(spelling)
    if found is None:
        raise TokenizerError(f"{ascii(spelling)[:60]} goes around a text, and is not in the vocabulary")
    return found


def _text(files: Files, name: str) -> str:
    raw = files.read_bytes(name, LARGEST)
    if raw is None:
        raise TokenizerError(f"there is no {name}", where=files.path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"byte {error.start} is not UTF-8", where=files.path / name) from None


def _flag(settings: Settings, name: str, default: bool | None) -> Any:
    """true, false or, where that is the default, null."""
    found = settings.get(name, default)
    if not isinstance(found, bool) and found is not default:
        raise TokenizerError(f"{name} is {ascii(found)[:40]}", where="tokenizer_config.json", allowed="true or false")
    return found


def _built(build: Callable[[], tokenizers.Tokenizer], where: object) -> tokenizers.Tokenizer:
    try:
        return build()
    except Exception as error:  # noqa: BLE001  (the library has no kind of its own for a vocabulary that does not fit)
        raise TokenizerError(f"makes no tokeniser: {ascii(str(error))[1:-1][:160]}", where=where) from None
