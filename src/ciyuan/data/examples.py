"""What a record becomes in the store: one function and one line in KINDS for each kind of example.

texts       text, document, and words if asked for: one row for a document or a piece of one, or one for each sentence
pairs       source, target
labelled    text, second where there is one, label: ids of labels, exactly one or, of several, any number
spans       question, passage, span: [first, last] token of the answer in the passage, [] where the passage does not hold it
prompted    text with all its markers, supervised: 1 where a token is learnt, else 0
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ciyuan.data.checks import Corpus, labels_of
from ciyuan.data.readers import Record
from ciyuan.text import Tokenizer, chat, prompts, sentences
from ciyuan.text.offsets import Offsets
from ciyuan.text.words import word_starts

CHUNK = 512
"""Records encoded at a time."""

AnswerForm = Literal["spans", "pairs", "prompted"]
"""How answers are learnt: pointed at, or written by an encoder–decoder or a decoder."""

Ids = Sequence[int]


class Encoder(Protocol):
    """What is asked of a tokeniser for pairs, texts and labelled texts. All else takes a Tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def encode_batch(self, texts: Any, /) -> list[list[int]]: ...


@dataclass(frozen=True)
class Form:
    """What the store is to hold, beside what the corpus decides.

    words: where words begin. sentences: a row for each sentence instead of each text. answers: of a corpus of answers.
    """

    words: bool = False
    sentences: bool = False
    answers: AnswerForm = "spans"


@dataclass(frozen=True)
class Made:
    """What became of a record: rows of the store, or the reason why there are none. supervised: tokens to learn among them."""

    rows: Sequence[Sequence[Ids]] = ()
    dropped: str | None = None
    truncated: bool = False
    supervised: int = 0
    unanswerable: bool = False


@dataclass(frozen=True)
class Making:
    """How to go about it. labels: ids by name. whole: nothing is dropped, as in dev, whose rows stand beside its records."""

    corpus: Corpus
    encoder: Encoder
    form: Form
    labels: Mapping[str, int]
    whole: bool

    @property
    def tokenizer(self) -> Tokenizer:
        assert isinstance(self.encoder, Tokenizer), "these examples need more than ids"
        return self.encoder

    @property
    def max_length(self) -> int:
        return self.corpus.settings.max_length

    @property
    def truncates(self) -> bool:
        return self.whole or self.corpus.settings.too_long == "truncate"


@dataclass(frozen=True)
class Kind:
    """columns: of the store, each with what its numbers are. learns: whether some tokens are learnt and the others only read."""

    columns: Mapping[str, Literal["token", "number", "flag"]]
    make: Callable[[Iterable[Record], Making], Iterator[Made]]
    learns: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that hold tokens."""
        return tuple(name for name, holds in self.columns.items() if holds == "token")


def kind_of(corpus: Corpus, form: Form) -> Kind:
    """The kind of example that the corpus makes in this form."""
    shape = corpus.shape
    if shape == "texts":
        return Kind({"text": "token", "document": "number", **({"words": "flag"} if form.words else {})}, _texts)
    if shape == "pairs":
        return Kind({"source": "token", "target": "token"}, _pairs, learns=True)
    if shape == "labelled":
        sides = [role for role in corpus.columns.roles if role != "label"]
        return Kind({**dict.fromkeys(sides, "token"), "label": "number"}, _labelled)
    if shape == "answers":
        return _ANSWERS[form.answers]
    return Kind(_PROMPTED, _chats, learns=True)


# --- Texts, pairs, labels ----------------------------------------------------------------------------------------------


def _texts(records: Iterable[Record], making: Making) -> Iterator[Made]:
    document, group = -1, None
    pieces = making.corpus.settings.group is None  # of a long document, which a reader hands over one by one
    for chunk in _chunks(records):
        parts = [
            sentences.split(record.fields["text"]) if making.form.sentences else [record.fields["text"]] for record in chunk
        ]
        encoded = iter(_encoded([part for some in parts for part in some], making))
        for record, some in zip(chunk, parts, strict=True):
            rows = [next(encoded) for _ in some]
            rows = [row for row in rows if row[0]] or (rows[:1] if making.whole else [])
            if not rows:
                yield Made(dropped="no tokens")
                continue
            if not (pieces and record.group is not None and record.group == group):
                document, group = document + 1, record.group
            yield Made([[ids, [document], *more] for ids, *more in rows])


def _encoded(texts: Sequence[str], making: Making) -> list[list[list[int]]]:
    """[ids], or [ids, word beginnings], of each text."""
    if not making.form.words:
        return [[ids] for ids in making.encoder.encode_batch(texts)]
    read = making.tokenizer.encode_batch_with_offsets(texts)
    return [[ids, word_starts(text, offsets)] for text, (ids, offsets) in zip(texts, read, strict=True)]


def _pairs(records: Iterable[Record], making: Making) -> Iterator[Made]:
    for _, sides in _sides(records, ("source", "target"), making):
        made = _fitted(sides, making.max_length, making)
        yield Made([made], truncated=made != sides, supervised=len(made[1])) if isinstance(made, list) else made


def _labelled(records: Iterable[Record], making: Making) -> Iterator[Made]:
    """Two texts together are as long as one may be: the longer gives way."""
    roles = [role for role in making.corpus.columns.roles if role != "label"]
    for record, sides in _sides(records, roles, making):
        sizes = [len(side) for side in sides]
        if making.truncates:
            sizes = give_way(sizes, making.max_length)
        made = _fitted(sides, making.max_length, making, sizes if len(sides) > 1 else None)
        label = [making.labels[name] for name in labels_of(record, making.corpus)]
        yield Made([[*made, label]], truncated=made != sides) if isinstance(made, list) else made


def give_way(sizes: Sequence[int], room: int) -> list[int]:
    """How much of each of one text or two is read where together they have `room`: the longer gives way, its end first.

    >>> give_way([50, 7], 40), give_way([50, 30], 40), give_way([4, 5], 40)
    ([33, 7], [20, 20], [4, 5])
    """
    kept = list(sizes)
    while (over := sum(kept) - room) > 0:
        longest = max(kept)
        kept[kept.index(longest)] -= min(over, max(1, 2 * longest - sum(kept)))
    return kept


def _sides(
    records: Iterable[Record], roles: Sequence[str], making: Making
) -> Iterator[tuple[Record, list[list[int]]]]:
    """Each record with the ids of its texts."""
    for chunk in _chunks(records):
        flat = making.encoder.encode_batch([record.fields[role] for record in chunk for role in roles])
        for i, record in enumerate(chunk):
            yield record, flat[i * len(roles) : (i + 1) * len(roles)]


def _fitted(
    sides: list[list[int]], longest: int, making: Making, sizes: Sequence[int] | None = None
) -> list[list[int]] | Made:
    """The sides, cut to their `sizes` or to the longest length if they may be; or why they are not used."""
    if not making.whole and not all(sides):
        return Made(dropped="no tokens")
    too_long = max(map(len, sides)) > longest if sizes is None else sum(map(len, sides)) > longest
    if too_long and not making.truncates:
        return Made(dropped="too long")
    return [side[:size] for side, size in zip(sides, sizes or itertools.repeat(longest))]


# --- Answers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """A question about a passage. span: first and last token of the answer in the passage, [] where that does not hold it."""

    record: Record
    question: list[int]
    passage: list[int]
    span: list[int]
    found: bool
    """Whether the answer stands where it is said to, or there is none."""


def _asked(records: Iterable[Record], making: Making) -> Iterator[_Asked]:
    for chunk in _chunks(records):
        questions = making.encoder.encode_batch([record.fields["question"] for record in chunk])
        passages = list(dict.fromkeys(record.fields["passage"] for record in chunk))
        read = dict(zip(passages, making.tokenizer.encode_batch_with_offsets(passages), strict=True))
        for record, question in zip(chunk, questions, strict=True):
            ids, offsets = read[record.fields["passage"]]
            span = span_of(record, offsets) if record.answers else []
            yield _Asked(record, question, ids, span or [], span is not None)


def span_of(record: Record, offsets: Offsets) -> list[int] | None:
    """First and last token of the passage that hold the answer; None where the passage does not have its words.

    The place is the one that the record names, else the nearest with the same words.
    """
    passage, answer = record.fields["passage"], record.fields["answer"]
    start = record.start + len(answer) - len(answer.lstrip()) if record.start >= 0 else 0
    answer = answer.strip()
    if not passage.startswith(answer, start):
        places = (passage.rfind(answer, 0, start + len(answer)), passage.find(answer, start))
        start = min((place for place in places if place >= 0), key=lambda place: abs(place - start), default=-1)
        if start < 0:
            return None
    end = start + len(answer)
    inside = [i for i, (a, b) in enumerate(offsets) if b > start and a < end]
    return [inside[0], inside[-1]] if inside else None


def _spans(records: Iterable[Record], making: Making) -> Iterator[Made]:
    """A passage is never too long: it is read in windows. Of those a question may take half."""
    longest = max(1, (making.max_length - 3) // 2)
    for asked in _asked(records, making):
        if not making.whole and not (asked.question and asked.passage):
            yield Made(dropped="no tokens")
        elif not making.whole and not asked.found:
            yield Made(dropped="answer not in the passage")
        elif len(asked.question) > longest and not making.truncates:
            yield Made(dropped="too long")
        else:
            rows = [[asked.question[:longest], asked.passage, asked.span]]
            yield Made(rows, truncated=len(asked.question) > longest, unanswerable=not asked.record.answers)


def _answer_pairs(records: Iterable[Record], making: Making) -> Iterator[Made]:
    """Question ⊕ passage → answer: the source as long as it may be, the end of a longer passage is cut."""
    for asked, answer in _written(records, making):
        bare = prompts.question_and_passage(asked.question, [], making.tokenizer)
        made = _cut(asked, making.max_length - len(bare), making)
        if not isinstance(made, Made) and len(answer) > making.max_length:
            made = Made(dropped="too long")
        if isinstance(made, Made):
            yield made
            continue
        source = prompts.question_and_passage(asked.question, made, making.tokenizer)
        yield Made([[source[: making.max_length], answer[: making.max_length]]], truncated=len(made) < len(asked.passage),
                   supervised=len(answer), unanswerable=not asked.record.answers)  # fmt: skip


def _answer_prompts(records: Iterable[Record], making: Making) -> Iterator[Made]:
    """Question ⊕ passage ⊕ answer in one text, with the answer and its end to learn; the end of a longer passage is cut."""
    end = making.tokenizer.eos_id
    for asked, answer in _written(records, making):
        bare = prompts.answer_prompt(asked.question, [], making.tokenizer)
        made = _cut(asked, making.max_length - len(bare) - len(answer) - 1, making)
        if isinstance(made, Made):
            yield made
            continue
        read = prompts.answer_prompt(asked.question, made, making.tokenizer)
        text, supervised = [*read, *answer, end], [0] * len(read) + [1] * (len(answer) + 1)
        yield Made([[text, supervised]], truncated=len(made) < len(asked.passage), supervised=len(answer) + 1,
                   unanswerable=not asked.record.answers)  # fmt: skip


def _written(records: Iterable[Record], making: Making) -> Iterator[tuple[_Asked, list[int]]]:
    for chunk in _chunks(records):
        answers = making.encoder.encode_batch([record.fields["answer"].strip() for record in chunk])
        yield from zip(_asked(chunk, making), answers, strict=True)


def _cut(asked: _Asked, room: int, making: Making) -> list[int] | Made:
    """The passage within the room; or why it cannot be used: what is cut off must not be asked for."""
    if making.whole:
        return asked.passage[: max(0, room)]
    if not (asked.question and asked.passage):
        return Made(dropped="no tokens")
    if len(asked.passage) > room and (not making.truncates or room < 1):
        return Made(dropped="too long")
    if asked.span and asked.span[1] >= room:
        return Made(dropped="answer cut off")
    return asked.passage[:room]


# --- Chats -------------------------------------------------------------------------------------------------------------


def _chats(records: Iterable[Record], making: Making) -> Iterator[Made]:
    """A conversation up to the assistant's last words; of one that is too long, as many whole turns as fit."""
    for record in records:
        messages = [{"role": role, "content": words} for role, words in record.turns]
        rendered = chat.render(messages, making.tokenizer)
        ends = [end for end, (role, _) in zip(rendered.turns, record.turns, strict=True) if role == "assistant"]
        fitting = [end for end in ends if end <= making.max_length]
        if not making.whole and (not fitting or (fitting != ends and not making.truncates)):
            yield Made(dropped="too long" if ends else "nothing to learn")
            continue
        end = fitting[-1] if fitting else making.max_length
        rows = [[rendered.tokens[:end], rendered.supervised[:end]]]
        yield Made(rows, truncated=fitting != ends, supervised=sum(rendered.supervised[:end]))


_PROMPTED: Mapping[str, Literal["token", "number", "flag"]] = {"text": "token", "supervised": "flag"}

_ANSWERS: Mapping[AnswerForm, Kind] = {
    "spans": Kind({"question": "token", "passage": "token", "span": "number"}, _spans),
    "pairs": Kind({"source": "token", "target": "token"}, _answer_pairs, learns=True),
    "prompted": Kind(_PROMPTED, _answer_prompts, learns=True),
}


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    rest = iter(records)
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk
