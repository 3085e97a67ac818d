"""What is shown of a model at work is what it computes."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from ciyuan.batch import Layout, Stream
from ciyuan.errors import UserError
from ciyuan.interop import with_head
from ciyuan.model import Transformer
from ciyuan.prediction.look import Look, look, shown
from ciyuan.text import Tokenizer, TokenizerSettings
from tests.interop.folders import config, model, tokenizer_for


def made(preset: str, **changes: object) -> tuple[Transformer, Tokenizer]:
    tokens = tokenizer_for(preset)
    return model(config(preset, tokens, **changes)), tokens


def check_maps(found: Look, wanted: dict[str, tuple[int, ...]]) -> None:
    assert {name: tuple(weights.shape) for name, weights in found.maps.items()} == wanted
    for weights in found.maps.values():
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("preset", ["modern-decoder", "gpt2-2019"])
def test_a_decoder_is_asked_after_each_token(preset: str) -> None:
    of, tokens = made(preset)
    found = look(of, tokens, "open the page", k=3)
    ids = list(found.ids["text"])
    row = torch.tensor([ids])
    with torch.no_grad():
        expected = of.logits(of.hidden(Stream(row, Layout.whole(row))))[0].double().softmax(-1)
    nats = []
    for place, guess in enumerate(found.guesses):
        best = expected[place].topk(3)
        assert [p for _, p in guess.likeliest] == pytest.approx(best.values.tolist(), rel=1e-5)
        assert [token for token, _ in guess.likeliest] == [shown(tokens, i) for i in best.indices.tolist()]
        if place == len(ids) - 1:
            assert guess.actual is None
            continue
        assert guess.actual is not None
        p = float(expected[place, ids[place + 1]])
        assert guess.actual[1] == pytest.approx(p, rel=1e-5)
        assert guess.actual[2] == 1 + int((expected[place] > expected[place, ids[place + 1]]).sum())
        nats.append(-math.log(p))
    assert found.nats == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    check_maps(found, {"decoder": (2, of.config.n_heads, len(ids), len(ids))})
    assert not found.maps["decoder"].triu(1).any()


def test_an_encoder_is_asked_at_each_mask() -> None:
    of, tokens = made("bert-2018")
    found = look(of, tokens, "open [MASK] page", k=4)
    (guess,) = found.guesses
    assert found.ids["text"][guess.place] == tokens.mask_id
    assert guess.actual is None
    assert len(guess.likeliest) == 4
    assert found.nats is None
    n = len(found.ids["text"])
    check_maps(found, {"encoder": (2, 2, n, n)})
    assert look(of, tokens, "open the page").guesses == ()


def test_an_encoder_decoder_writes_its_own_target_or_reads_a_given_one() -> None:
    of, tokens = made("vaswani-2017")
    found = look(of, tokens, "open the page", target="打开", k=2)
    assert found.tokens["text"][1:] == tuple(shown(tokens, i) for i in tokens.encode("打开"))
    source, target = (len(found.ids[name]) for name in ("source", "text"))
    check_maps(
        found, {"encoder": (2, 2, source, source), "decoder": (1, 2, target, target), "cross": (1, 2, target, source)}
    )
    last = found.guesses[-1]
    assert last.actual is not None
    assert last.actual[0] == "</s>"
    assert not found.written
    own = look(of, tokens, "open the page", k=2)
    assert own.written
    for guess in own.guesses[:-1]:  # greedy: what it wrote is what it found likeliest, but for what is never written
        assert guess.actual is not None
        assert guess.actual[2] <= 3


def test_a_classifier_shows_where_it_looks_alone() -> None:
    tokens = tokenizer_for("bert-2018")
    of = model(with_head(config("bert-2018", tokens), "classification", n_labels=2))
    found = look(of, tokens, "open the page")
    assert found.guesses == ()
    assert set(found.maps) == {"encoder"}


def test_looking_changes_nothing() -> None:
    of, tokens = made("modern-decoder", dropout=0.0)
    of.train()
    look(of, tokens, "open")
    assert of.training
    assert all(parameter.grad is None for parameter in of.parameters())


@pytest.mark.parametrize(
    ("preset", "text", "target", "message"),
    [
        ("modern-decoder", "a", "b", "encoder–decoder"),
        ("vaswani-2017", "open " * 400, None, "the source has"),
        ("vaswani-2017", "open", "打开" * 400, "the target has"),
        ("gpt2-2019", "open " * 1000, None, "the text has"),
    ],
)
def test_what_cannot_be_shown_is_refused(preset: str, text: str, target: str | None, message: str) -> None:
    of, tokens = made(preset, max_positions=64)
    with pytest.raises(UserError, match=message):
        look(of, tokens, text, target=target)


def test_more_attention_than_a_page_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of, tokens = made("modern-decoder")
    monkeypatch.setattr(sys.modules["ciyuan.prediction.look"], "MOST_WEIGHTS", 100)
    with pytest.raises(UserError, match="at most 100 are shown"):
        look(of, tokens, "open the page")


def test_tokens_are_shown_as_people_read_them() -> None:
    tokens = Tokenizer.train(
        ["a dog\n\nsees 狗"] * 3, TokenizerSettings(kind="bpe", vocab_size=300), template="bos-eos"
    )
    pieces = [shown(tokens, i) for i in tokens.encode("a dog\n\nsees 狗")]
    assert "⏎" in "".join(pieces)
    assert "".join(pieces).replace("␣", " ").replace("⏎", "\n").startswith("a dog\n\nsees")
    assert "".join(shown(tokens, i) for i in tokens.encode("\t \r")) == "⇥␣␍"
    assert shown(tokens, tokens.eos_id) == "</s>"
    assert shown(tokens, 10**6) == "#1000000"
