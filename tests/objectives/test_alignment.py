from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from ciyuan.objectives import Seq2Seq
from ciyuan.objectives.alignment import Lexicon
from tests.model.builders import build


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint16)


PAIRS = [
    (ids(3, 4), ids(13, 14)),
    (ids(4, 3, 5), ids(14, 13, 15)),
    (ids(5, 3), ids(15, 13)),
    (
        ids(
            4,
        ),
        ids(14, 14),
    ),
]


def naive(pairs, iterations: int) -> tuple[dict, dict]:
    """Model 1 with a diagonal prior, as loops over dictionaries."""

    def prior(t: int, n_target: int, s: int, n_source: int) -> float:
        return math.exp(-4 * abs((s + 0.5) / n_source - (t + 0.5) / n_target))

    table: dict = defaultdict(lambda: 1.0)
    counts: dict = {}
    for _ in range(iterations):
        counts, totals = defaultdict(float), defaultdict(float)
        for source, target in pairs:
            for t, y in enumerate(target.tolist()):
                weights = [table[x, y] * prior(t, len(target), s, len(source)) for s, x in enumerate(source.tolist())]
                for x, weight in zip(source.tolist(), weights, strict=True):
                    counts[x, y] += weight / sum(weights)
        for (x, _), count in counts.items():
            totals[x] += count
        table = {(x, y): max(count - 0.1, 1e-4) / (totals[x] + 1) for (x, y), count in counts.items()}
    return table, counts


@pytest.mark.parametrize("iterations", [1, 3, 6])
def test_the_lexicon_equals_the_naive_loops(iterations):
    lexicon = Lexicon.learn(PAIRS, vocab_size=20, iterations=iterations)
    table, counts = naive(PAIRS, iterations)
    assert lexicon.keys.tolist() == sorted(x * 20 + y for x, y in table)
    for key, probability, count in zip(lexicon.keys, lexicon.probabilities, lexicon.counts, strict=True):
        pair = (int(key) // 20, int(key) % 20)
        assert probability == pytest.approx(table[pair], rel=1e-4)
        assert count == pytest.approx(counts[pair], rel=1e-4)


def test_a_target_token_looks_at_what_it_translates():
    lexicon = Lexicon.learn(PAIRS * 20, vocab_size=20, iterations=8)
    posterior = lexicon.posterior(ids(3, 4, 5), ids(15, 14, 13))
    assert posterior.shape == (3, 3)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-5)
    assert posterior.argmax(axis=1).tolist() == [2, 1, 0]


def test_unknown_tokens_look_along_the_diagonal():
    lexicon = Lexicon.learn(PAIRS, vocab_size=20)
    posterior = lexicon.posterior(ids(8, 9, 10), ids(17, 18, 19))
    assert posterior.argmax(axis=1).tolist() == [0, 1, 2]


def test_memory_is_bounded_by_leaving_pairs_unread():
    lexicon = Lexicon.learn(PAIRS, vocab_size=20, max_links=3)
    assert set(lexicon.keys // 20) == {3, 4}


def test_a_lexicon_survives_its_file(tmp_path):
    lexicon = Lexicon.learn(PAIRS, vocab_size=20)
    lexicon.save(tmp_path / "lexicon.safetensors")
    again = Lexicon.load(tmp_path / "lexicon.safetensors", vocab_size=20)
    np.testing.assert_array_equal(again.posterior(ids(3, 4), ids(13, 14)), lexicon.posterior(ids(3, 4), ids(13, 14)))


def test_guidance_pulls_the_last_cross_attention_and_fades_with_progress():
    lexicon = Lexicon.learn(PAIRS, vocab_size=23)
    plain = Seq2Seq(pad_id=0, start_id=1, eos_id=2)
    guided = Seq2Seq(pad_id=0, start_id=1, eos_id=2, lexicon=lexicon, alignment_weight=0.5)
    model = build("encoder-decoder", "post-norm sinusoidal").train()
    batch = guided.collate(PAIRS)
    alone = plain.loss(model, plain.collate(PAIRS)).sum
    start, middle, end = (guided.loss(model, batch, progress=p) for p in (0.0, 0.5, 1.0))
    weights = model.attention_maps(batch)["cross"][-1][:, 0]
    expected = -(batch.extra["alignment"] * weights.clamp(min=1e-6).log()).sum()
    torch.testing.assert_close(start.sum, alone + 0.5 * expected)
    torch.testing.assert_close(middle.sum, alone + 0.25 * expected)
    torch.testing.assert_close(end.sum, alone)
    assert float(batch.extra["alignment"].sum()) == pytest.approx(batch.count, rel=1e-5)
    model.eval()
    torch.testing.assert_close(guided.loss(model, batch).sum, alone)


def test_guidance_asks_nothing_of_a_first_token():
    lexicon = Lexicon.learn(PAIRS, vocab_size=23)
    plain = Seq2Seq(pad_id=0, start_id=1, eos_id=2, lexicon=lexicon, alignment_weight=0.5)
    guided = Seq2Seq(pad_id=0, start_id=1, eos_id=2, first_id=3, lexicon=lexicon, alignment_weight=0.5)
    wanted, found = (some.collate(PAIRS).extra["alignment"] for some in (plain, guided))
    assert torch.equal(found[:, 1:], wanted)
    assert not found[:, 0].any()


def test_guidance_does_not_depend_on_how_a_batch_is_split():
    lexicon = Lexicon.learn(PAIRS, vocab_size=23)
    guided = Seq2Seq(pad_id=0, start_id=1, eos_id=2, lexicon=lexicon, alignment_weight=0.5)
    model = build("encoder-decoder", "pre-norm relative no scaling").train()
    whole = guided.loss(model, guided.collate(PAIRS))
    parts = [guided.loss(model, guided.collate([pair])) for pair in PAIRS]
    torch.testing.assert_close(whole.sum, sum(part.sum for part in parts))
