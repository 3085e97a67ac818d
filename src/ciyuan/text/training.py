"""Train a tokeniser: sample the text under a memory ceiling, choose the alphabet, learn the pieces with `tokenizers`."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.normalizers import Normalizer

from ciyuan.errors import TokenizerError
from ciyuan.text.pieces import lossless_decoder, lossless_normalizer, qwen2_cut, word_cut
from ciyuan.text.settings import Kind, TokenizerSettings
from ciyuan.text.special import SpecialTokens

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

SEEDS_PER_PIECE = 25
"""Candidates with which Unigram training begins, for each piece that it ends with. More take long and hardly shorten the text."""

_MEMORY_PER_BYTE: dict[Kind, int] = {
    "unigram": 48,
    "bpe": 24,
    "char-bpe": 24,
    "wordpiece": 24,
    "characters": 2,
    "bytes": 1,
}
"""Memory that training takes for a byte of text, in bytes, rounded up; the ceiling divided by it is how much is read."""


@dataclass(frozen=True)
class Sample:
    """Texts to learn from, and how many of how many bytes they are."""

    texts: tuple[str, ...]
    used_bytes: int
    all_bytes: int


def sample(texts: Iterable[str], *, max_bytes: int) -> Sample:
    """At most max_bytes of text, in one pass and bounded memory, decided by each text's hash: the same texts, the same sample."""
    kept: list[tuple[int, str, int]] = []
    used = total = 0
    limit = 2**64
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        total += len(raw)
        rank = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
        if rank >= limit:
            continue
        kept.append((rank, text, len(raw)))
        used += len(raw)
        while used > max_bytes and len(kept) > 1:
            limit //= 2
            kept = [entry for entry in kept if entry[0] < limit] or kept[:1]
            used = sum(size for _, _, size in kept)
            if len(kept) == 1:
                break
    return Sample(tuple(text for _, text, _ in kept), used, total)


def train_backend(
    texts: Iterable[str], settings: TokenizerSettings, special: SpecialTokens
) -> tuple[tokenizers.Tokenizer, Sample]:
    """A tokeniser of `settings.kind`; the vocabulary may come out smaller where the text does not hold more.

    Raises TokenizerError where there is no text, or the vocabulary cannot hold the alphabet.
    """
    chosen = sample(texts, max_bytes=settings.max_memory_mb * 2**20 // _MEMORY_PER_BYTE[settings.kind])
    if not any(chosen.texts):
        raise TokenizerError("there is no text to learn a tokeniser from")
    trained = {
        "unigram": _unigram,
        "bpe": _bpe,
        "char-bpe": _char_bpe,
        "wordpiece": _wordpiece,
        "characters": _characters,
        "bytes": _bytes,
    }
    backend = trained[settings.kind](chosen.texts, settings, special)
    backend.add_special_tokens(
        [AddedToken(spelling, special=True, normalized=False) for spelling in special.spellings()]
    )
    return backend, chosen


def _unigram(texts: tuple[str, ...], settings: TokenizerSettings, special: SpecialTokens) -> tokenizers.Tokenizer:
    learner, covered, room = _lossless(models.Unigram(), special), *_room(texts, settings, special)
    trainer = trainers.UnigramTrainer(
        vocab_size=room + 1,
        show_progress=False,
        special_tokens=["<unk>"],
        unk_token="<unk>",
        max_piece_length=16,
        seed_size=SEEDS_PER_PIECE * settings.n_pieces,  # type: ignore[call-arg]  # the library's stub lacks it
        shrinking_factor=0.5,
    )
    learner.train_from_iterator(covered, trainer)
    learnt = json.loads(learner.to_str())["model"]["vocab"]
    pieces = sorted((entry for entry in learnt if entry[0] != "<unk>"), key=lambda entry: (-entry[1], entry[0]))[:room]
    lowest = min(score for _, score in pieces) - 10
    spellings = special.spellings()
    vocab = (
        [(spelling, 0.0) for spelling in spellings]
        + [(piece, score) for piece, score in pieces]
        + [(byte, lowest) for byte in BYTES]
    )
    unk = spellings.index(special.unk) if special.unk is not None else None
    return _lossless(models.Unigram(vocab, unk_id=unk, byte_fallback=True), special)


def _char_bpe(texts: tuple[str, ...], settings: TokenizerSettings, special: SpecialTokens) -> tokenizers.Tokenizer:
    learner, covered, room = _lossless(models.BPE(), special), *_room(texts, settings, special)
    learner.train_from_iterator(covered, trainers.BpeTrainer(vocab_size=room, show_progress=False, special_tokens=[]))
    learnt = json.loads(learner.to_str())["model"]
    words = [*special.spellings(), *sorted(learnt["vocab"], key=learnt["vocab"].get), *BYTES]
    vocab = {word: number for number, word in enumerate(words)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    return _lossless(models.BPE(vocab, merges, unk_token=special.unk, byte_fallback=True), special)


def _room(texts: tuple[str, ...], settings: TokenizerSettings, special: SpecialTokens) -> tuple[Iterator[str], int]:
    """The texts in the alphabet that the coverage chooses, and how many pieces fit beside special tokens and bytes."""
    normalizer = lossless_normalizer(special.spellings())
    alphabet = _alphabet(texts, normalizer, settings.coverage)
    reserved = len(special.spellings()) + len(BYTES)
    if settings.n_pieces <= reserved + len(alphabet):
        raise TokenizerError(
            f"a vocabulary of {settings.n_pieces} cannot hold {reserved} special and byte tokens and {len(alphabet)} characters",
            where="tokenizer.vocab_size",
            fix=f"choose at least {reserved + 2 * len(alphabet)}, or a lower tokenizer.coverage than {settings.coverage}",
        )
    return _covered(texts, normalizer, alphabet), settings.n_pieces - reserved


def _characters(texts: tuple[str, ...], settings: TokenizerSettings, special: SpecialTokens) -> tokenizers.Tokenizer:
    alphabet = _alphabet(texts, lossless_normalizer(special.spellings()), settings.coverage)
    words = [*special.spellings(), *alphabet[: settings.n_pieces - len(special.spellings()) - len(BYTES)], *BYTES]
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return _lossless(models.BPE(vocab, [], unk_token=special.unk, byte_fallback=True), special)


def _bpe(texts: tuple[str, ...], settings: TokenizerSettings, special: SpecialTokens) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([word_cut_for_learning(), qwen2_cut()])
    spellings = special.spellings()
    if settings.n_pieces < len(spellings) + 256:
        raise TokenizerError(
            f"a vocabulary of {settings.n_pieces} cannot hold {len(spellings)} special tokens and 256 bytes",
            where="tokenizer.vocab_size",
            fix=f"choose more than {len(spellings) + 256}",
        )
    trainer = trainers.BpeTrainer(
        vocab_size=settings.n_pieces,
        show_progress=False,
        special_tokens=spellings,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = qwen2_cut()
    backend.decoder = decoders.ByteLevel()
    return backend


def _bytes(texts: tuple[str, ...], settings: TokenizerSettings, special: SpecialTokens) -> tokenizers.Tokenizer:
    words = [*special.spellings(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = tokenizers.Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _wordpiece(texts: tuple[str, ...], settings: TokenizerSettings, special: SpecialTokens) -> tokenizers.Tokenizer:
    assert special.unk is not None, "WordPiece has an UNK"
    learner = _bert(models.WordPiece({}, unk_token=special.unk))
    # The library would number the characters that go on a word as its hash table yields them, anew in each process.
    first = [*special.spellings(), *(f"##{character}" for character in _continuing(texts))]
    learner.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=settings.n_pieces, show_progress=False, special_tokens=first)
    )
    return _bert(models.WordPiece(learner.get_vocab(), unk_token=special.unk))


def _bert(model: Any) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = _bert_normalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return backend


def _bert_normalizer() -> Normalizer:
    return normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)


def _continuing(texts: tuple[str, ...]) -> list[str]:
    """The characters that stand in a word behind its first, in order; BERT makes each mark of punctuation a word."""
    normalizer, found = _bert_normalizer(), set[str]()
    for text in texts:
        for run in normalizer.normalize_str(text).split():
            found.update(run[1:])
    return sorted(character for character in found if not _is_mark(character))


def _is_mark(character: str) -> bool:
    """Punctuation as BERT has it: Unicode's, and all of ASCII that is neither a letter nor a digit."""
    return unicodedata.category(character).startswith("P") or (character.isascii() and not character.isalnum())


def word_cut_for_learning() -> Any:
    """Unspaced runs are cut for learning alone: encoding by merges needs no cut, and GGUF runtimes know none."""
    return word_cut()


def _lossless(model: Any, special: SpecialTokens) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = lossless_normalizer(special.spellings())
    backend.pre_tokenizer = word_cut()
    backend.decoder = lossless_decoder()
    return backend


def _alphabet(texts: tuple[str, ...], normalizer: Normalizer, coverage: float) -> list[str]:
    """The most frequent characters, most frequent first, that together are `coverage` of the text."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    wanted, seen, alphabet = coverage * sum(counts.values()), 0, []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if seen >= wanted:
            break
        alphabet.append(character)
        seen += count
    return alphabet


def _covered(texts: tuple[str, ...], normalizer: Normalizer, alphabet: list[str]) -> Iterator[str]:
    """The texts without the characters that will be spelt in bytes, parted where those stood.

    normalizer: not the one of the tokeniser that is being trained, which is locked meanwhile and would wait for itself.
    """
    known = frozenset(alphabet)
    for text in texts:
        normal = normalizer.normalize_str(text)
        if known.issuperset(normal):
            yield text
        else:
            yield "".join(character if character in known else "\n" for character in text)
