"""The three questions of the evaluation harness, against float64 computed token by token."""

from __future__ import annotations

import math

import pytest
import torch

from ciyuan.batch import Layout, Stream
from ciyuan.errors import RecipeError, UserError
from ciyuan.evaluation.harness import Harness
from ciyuan.generation import GenerationSettings, generate
from ciyuan.model import Transformer
from ciyuan.text import Tokenizer
from tests.interop.folders import config, model, tokenizer_for

WIDTH = 16


def made(preset: str = "modern-decoder", *, width: int = WIDTH, seed: int = 0) -> tuple[Transformer, Tokenizer]:
    tokens = tokenizer_for(preset)
    return model(config(preset, tokens, max_positions=width), seed=seed).double(), tokens


@pytest.fixture(scope="module")
def asked() -> tuple[Harness, Transformer, Tokenizer]:
    of, tokens = made()
    return Harness(of, tokens), of, tokens


def naive(of: Transformer, ids: list[int], first: int) -> tuple[float, bool]:
    """log P of ids[first:], each token by a pass of its own over the WIDTH tokens before it."""
    total, greedy = 0.0, True
    for place in range(first, len(ids)):
        read = torch.tensor([ids[max(0, place - WIDTH) : place]])
        with torch.no_grad():
            logits = of.logits(of.hidden(Stream(read, Layout.whole(read))))[0, -1].tolist()
        largest = max(logits)
        total += logits[ids[place]] - largest - math.log(math.fsum(math.exp(x - largest) for x in logits))
        greedy = greedy and logits.index(largest) == ids[place]
    return total, greedy


REQUESTS = [
    ("open the", " page"),
    ("open the ", "page"),
    ("", "page"),
    ("  ", "page"),
    ("打开", "帮助菜单"),
    ("print", ""),
]


def test_a_continuation_costs_what_its_tokens_cost(asked: tuple[Harness, Transformer, Tokenizer]) -> None:
    harness, of, tokens = asked
    found = harness.loglikelihood(REQUESTS[:5])
    for (context, continuation), (log_p, greedy) in zip(REQUESTS[:5], found, strict=True):
        ids = [tokens.bos_id, *tokens.encode(context + continuation)]
        first = 1 + (len(tokens.encode(context.rstrip())) if context.strip() else 0)
        wanted = naive(of, ids, first)
        assert log_p == pytest.approx(wanted[0], rel=1e-9)
        assert greedy == wanted[1]


def test_white_space_between_the_two_goes_with_the_continuation(asked: tuple[Harness, Transformer, Tokenizer]) -> None:
    one, other = asked[0].loglikelihood(REQUESTS[:2])
    assert one == other


def test_what_greedy_search_writes_is_said_to_be_greedy(asked: tuple[Harness, Transformer, Tokenizer]) -> None:
    harness, of, tokens = asked
    ids = [tokens.bos_id, *tokens.encode("open")]
    for _ in range(3):
        read = torch.tensor([ids])
        with torch.no_grad():
            ids.append(int(of.logits(of.hidden(Stream(read, Layout.whole(read))))[0, -1].argmax()))
    assert [greedy for _, greedy in harness._score([(ids, 3), ([*ids[:-1], ids[-1] ^ 1], 3)])] == [True, False]


def test_a_long_context_loses_its_beginning(asked: tuple[Harness, Transformer, Tokenizer]) -> None:
    harness, of, tokens = asked
    context, continuation = "open the help menu and print", "page"
    ids = [tokens.bos_id, *tokens.encode(context + continuation)]
    n = len(tokens.encode(continuation)) - 1  # without the space before a text
    assert len(ids) > WIDTH + 1
    ((log_p, _),) = harness.loglikelihood([(context, continuation)])
    kept = ids[-WIDTH - 1 :]
    with torch.no_grad():
        read = torch.tensor([kept[:-1]])
        logs = of.logits(of.hidden(Stream(read, Layout.whole(read))))[0].log_softmax(-1)
    wanted = sum(float(logs[place, kept[place + 1]]) for place in range(WIDTH - n, WIDTH))
    assert log_p == pytest.approx(wanted, rel=1e-9)


def test_a_continuation_longer_than_the_positions_is_scored_whole(
    asked: tuple[Harness, Transformer, Tokenizer],
) -> None:
    harness, of, tokens = asked
    text = "open the help menu and print the page"
    ids = [tokens.bos_id, *tokens.encode(text)]
    ((log_p, _),) = harness.loglikelihood([("", text)])
    wanted = 0.0
    for start in range(1, len(ids), WIDTH // 2):
        part = ids[: start + WIDTH // 2][-WIDTH - 1 :]
        n = len(ids[start : start + WIDTH // 2])
        read = torch.tensor([part[:-1]])
        with torch.no_grad():
            logs = of.logits(of.hidden(Stream(read, Layout.whole(read))))[0].log_softmax(-1)
        wanted += sum(float(logs[place, part[place + 1]]) for place in range(len(part) - 1 - n, len(part) - 1))
    assert log_p == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    "text", ["page", "open the help menu and print the page, 打开帮助菜单 and close", "a" * WIDTH, "x"]
)
def test_a_rolling_text_is_read_in_blocks_that_see_one_token_before(
    text: str, asked: tuple[Harness, Transformer, Tokenizer]
) -> None:
    harness, of, tokens = asked
    ids = [tokens.bos_id, *tokens.encode(text)]
    wanted = sum(naive(of, ids[start : start + WIDTH + 1], 1)[0] for start in range(0, len(ids) - 1, WIDTH))
    other, found = harness.loglikelihood_rolling(["print", text])
    assert found == pytest.approx(wanted, rel=1e-9)
    assert other == pytest.approx(harness.loglikelihood_rolling(["print"])[0], rel=1e-12)


def test_an_empty_text_costs_nothing(asked: tuple[Harness, Transformer, Tokenizer]) -> None:
    assert asked[0].loglikelihood_rolling([""]) == [0.0]
    assert asked[0].loglikelihood([("", "")]) == [(0.0, True)]
    assert asked[0].loglikelihood([]) == asked[0].loglikelihood_rolling([]) == asked[0].generate_until([]) == []


def test_requests_do_not_disturb_one_another(asked: tuple[Harness, Transformer, Tokenizer]) -> None:
    harness = asked[0]
    together = harness.loglikelihood(REQUESTS[:5])
    alone = [harness.loglikelihood([request])[0] for request in REQUESTS[:5]]
    for (one, greedy), (other, same) in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-12)
        assert greedy == same


def test_writing_ends_at_the_first_of_its_texts_or_at_the_limit() -> None:
    of, tokens = made(width=48, seed=22)  # which writes whole characters
    harness = Harness(of, tokens)
    whole, short = harness.generate_until(
        [("open", {"max_gen_toks": 12}), ("open", {"max_gen_toks": 4, "until": ["\n"]})]
    )
    assert whole.startswith(short)
    assert len(whole) > 2
    stop = whole[1:3]
    (cut,) = harness.generate_until(
        [("open", {"max_gen_toks": 12, "until": stop, "do_sample": False, "temperature": 0.0})]
    )
    assert cut == whole[: whole.index(stop)]


def test_a_context_that_leaves_no_room_loses_its_beginning() -> None:
    of, tokens = made(width=24)
    harness = Harness(of, tokens)
    long = "print the page and close the help menu and open the page"
    (found,) = harness.generate_until([(long, {"max_gen_toks": 8})])
    read = [
        tokens.bos_id,
        *tokens.encode(long)[-16:],
    ]  # of the 24 positions the last 7 are for what is written and read again
    wanted = generate(of, tokens, [read], settings=GenerationSettings(max_tokens=8))[0]
    assert len(wanted.tokens) == 8
    assert found == wanted.text


def test_drawing_is_asked_for_and_repeatable() -> None:
    of, tokens = made(width=48)
    harness = Harness(of, tokens)
    drawn = [
        harness.generate_until([("open", {"max_gen_toks": 9, "do_sample": True, "temperature": 1.5})]) for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != harness.generate_until([("open", {"max_gen_toks": 9})])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_gen_tok": 3}, "did you mean max_gen_toks"), ({"max_gen_toks": 0}, "max_tokens is 0")],
)
def test_options_that_would_change_the_answer_unseen_are_refused(
    options: dict[str, object], message: str, asked: tuple[Harness, Transformer, Tokenizer]
) -> None:
    with pytest.raises((UserError, RecipeError), match=message):
        asked[0].generate_until([("open", options)])


def test_only_models_that_write_can_be_asked() -> None:
    of, tokens = made("bert-2018")
    with pytest.raises(UserError, match="models that write"):
        Harness(of, tokens)
    of, tokens = made("vaswani-2017", width=32)
    harness = Harness(of, tokens)
    assert isinstance(harness.generate_until([("open", {"max_gen_toks": 3})])[0], str)
    for question in (lambda: harness.loglikelihood([("a", "b")]), lambda: harness.loglikelihood_rolling(["a"])):
        with pytest.raises(UserError, match="for decoders"):
            question()
