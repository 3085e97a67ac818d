"""The same text in other pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ciyuan.data.blocks import Block
from ciyuan.errors import RecipeError
from ciyuan.objectives.bpe_dropout import BpeDropout, halves
from ciyuan.objectives.drawing import Draws
from ciyuan.text import Tokenizer
from ciyuan.text.settings import TokenizerSettings

TEXTS = ["the lower the slower, the newer the lower", "北京是中国的首都，北京很大", "lower and slower"] * 4


def trained(kind: str) -> Tokenizer:
    size = 460 if kind != "bytes" else 300
    return Tokenizer.train(TEXTS, TokenizerSettings.model_validate({"kind": kind, "vocab_size": size}))


@pytest.fixture(scope="module", params=["bpe", "char-bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return trained(request.param)


def dropout(tokenizer: Tokenizer, **changes: Any) -> BpeDropout:
    return BpeDropout(halves(tokenizer), **{"p": 0.3, "seed": 0, "room": 1000, **changes})


def ids_of(tokenizer: Tokenizer, text: str) -> np.ndarray[Any, Any]:
    return np.array(tokenizer.encode(text), dtype=np.uint16)


def test_other_pieces_of_the_same_text(tokenizer: Tokenizer) -> None:
    changes, grown = dropout(tokenizer, p=0.5), 0
    for number, text in enumerate(TEXTS[:3]):
        ids = ids_of(tokenizer, text)
        pieces, places = changes.split(ids, Draws("test", number))
        assert tokenizer.decode(pieces.tolist()) == tokenizer.decode(ids.tolist()) == text
        grown += len(pieces) - len(ids)
        assert pieces.dtype == ids.dtype
        for place in range(len(ids)):
            own = [tokenizer.token(int(piece)) for piece in pieces[places == place]]
            assert "".join(own) == tokenizer.token(int(ids[place]))
    assert grown > 0


def test_a_merge_is_undone_as_often_as_said(tokenizer: Tokenizer) -> None:
    merged = np.flatnonzero(halves(tokenizer)[:, 0] >= 0)
    ids = np.repeat(merged[:1], 20_000)
    _, places = dropout(tokenizer, p=0.1).split(ids, Draws("often"))
    assert (np.bincount(places) > 1).mean() == pytest.approx(0.1, abs=0.01)


def test_everything_undone_leaves_pieces_that_no_merge_made(tokenizer: Tokenizer) -> None:
    table = halves(tokenizer)
    pieces, _ = dropout(tokenizer, p=1.0).split(ids_of(tokenizer, TEXTS[0]), Draws("all"))
    assert (table[pieces] == -1).all()
    kept, _ = dropout(tokenizer, p=0.0).split(ids_of(tokenizer, TEXTS[0]), Draws("all"))
    assert kept.tolist() == tokenizer.encode(TEXTS[0])


def test_it_is_a_pure_function_of_seed_epoch_and_number(tokenizer: Tokenizer) -> None:
    pair = (ids_of(tokenizer, TEXTS[0]), ids_of(tokenizer, TEXTS[1]))

    def of(seed: int, epoch: int, number: int) -> list[list[int]]:
        together = dropout(tokenizer, seed=seed)([pair, pair], [99, number], epoch)
        return [side.tolist() for side in together[1]]

    assert of(0, 1, 7) == of(0, 1, 7)
    assert of(0, 1, 7) != of(0, 2, 7)
    assert of(0, 1, 7) != of(0, 1, 8)
    assert of(0, 1, 7) != of(1, 1, 7)


def test_blocks_keep_their_place_in_the_document_and_words_begin_where_they_began(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, TEXTS[0])
    words = np.array([1, *([0, 1] * len(ids))][: len(ids)], dtype=np.uint8)
    block = Block(ids, starts=False, ends=True, before=5, words=words)
    (changed,) = dropout(tokenizer).changed((block,), 0, 0)
    assert (changed.starts, changed.ends, changed.before) == (False, True, 5)
    assert changed.words is not None
    assert len(changed.words) == len(changed.tokens) > len(ids)

    def starts(tokens: Any, marks: Any) -> list[str]:
        return ["".join(tokenizer.token(int(t)) for t in part) for part in np.split(tokens, np.flatnonzero(marks))[1:]]

    assert starts(changed.tokens, changed.words) == starts(ids, words)


def test_what_would_outgrow_its_row_stays_as_it_was(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, TEXTS[0])
    tight = dropout(tokenizer, p=1.0, room=len(ids) + 2)
    assert tight.changed((ids, ids), 0, 0) is not None
    assert [side.tolist() for side in tight.changed((ids, ids), 0, 0)] == [ids.tolist()] * 2
    line = (Block(ids, starts=True, ends=True),)
    assert tight.changed(line, 0, 0) is line


def test_a_tokeniser_without_merges_is_refused() -> None:
    with pytest.raises(RecipeError, match="has none"):
        halves(trained("unigram"))
