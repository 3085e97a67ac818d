from __future__ import annotations

import itertools
import math

import pytest
import torch

from ciyuan.generation import GenerationSettings, decoding, sampling

OPTIONS = [
    dict(zip(("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram"), values))
    for values in itertools.product((0.0, 0.5, 1.7), (0, 3), (1.0, 0.6), (0.0, 0.2), (1.0, 1.4, 0.7), (0, 2))
]
WRITTEN = [[], [4], [4, 4], [1, 2, 3, 1], [5, 6, 5, 6, 5], [0, 1, 2, 3, 4, 5, 6, 7]]


def logits(rows: int, vocab_size: int = 11, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def aligned(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[sampling.NOTHING] * (width - len(row)) + row for row in rows])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_distribution_is_the_naive_one_for_rows_of_every_length(options):
    scores = logits(len(WRITTEN) - 1)
    scores[:, 9] = -math.inf
    rows = WRITTEN[1:]
    found = sampling.distribution(scores, aligned(rows), GenerationSettings(**options), stops=[1])
    for row, written, probabilities in zip(scores, rows, found):
        wanted = decoding.probabilities(row.tolist(), written, **options, stops=[1])
        assert probabilities.tolist() == pytest.approx(wanted, abs=1e-12)
        assert math.fsum(wanted) == pytest.approx(1)
    empty = sampling.distribution(scores[:1], torch.zeros(1, 0, dtype=torch.int64), GenerationSettings(**options))
    assert empty[0].tolist() == pytest.approx(decoding.probabilities(scores[0].tolist(), [], **options), abs=1e-12)


def test_the_logits_are_left_as_they_were():
    scores = logits(2)
    before = scores.clone()
    sampling.distribution(
        scores, aligned([[1, 2, 1], [3]]), GenerationSettings(top_p=0.5, repetition_penalty=2, no_repeat_ngram=2)
    )
    assert torch.equal(scores, before)


def test_what_the_filters_leave_by_hand():
    scores = torch.tensor([[0.5, 0.2, 0.2, 0.1]], dtype=torch.float64).log()
    for options, wanted in (
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [5 / 9, 2 / 9, 2 / 9, 0]),  # as likely as the second: it stays
        ({"top_p": 0.0}, [1, 0, 0, 0]),
        ({"top_p": 0.45}, [1, 0, 0, 0]),
        ({"top_p": 0.6}, [5 / 7, 2 / 7, 0, 0]),
        ({"min_p": 0.4 - 1e-9}, [5 / 9, 2 / 9, 2 / 9, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [25 / 34, 4 / 34, 4 / 34, 1 / 34]),
        ({"temperature": 1e-300}, [1, 0, 0, 0]),
        ({"temperature": 1e300}, [1 / 4] * 4),
    ):
        found = sampling.distribution(scores, torch.zeros(1, 0, dtype=torch.int64), GenerationSettings(**options))
        assert found[0].tolist() == pytest.approx(wanted, abs=1e-12), options


def test_drawn_frequencies_are_the_probabilities():
    """Pearson's chi-square; 29.6 is its 99.9 % quantile at 10 degrees of freedom, and the seed is fixed."""
    n = 20_000
    for options in ({}, {"temperature": 1.5}, {"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.1, "temperature": 2.0}):
        settings = GenerationSettings(**{"temperature": 1.0, **options})
        probabilities = sampling.distribution(logits(1, seed=3), torch.zeros(1, 0, dtype=torch.int64), settings)
        drawn = sampling.draw(probabilities.expand(n, -1), sampling.uniforms(7, n))
        counts = drawn.bincount(minlength=11).double()
        wanted = n * probabilities[0]
        possible = wanted > 0
        assert counts[~possible].sum() == 0
        assert float(((counts - wanted)[possible] ** 2 / wanted[possible]).sum()) < 29.6
        assert int(possible.sum()) > 2


def test_first_numbers_of_neighbouring_requests_are_uniform_too():
    """Each request has a generator of its own: it is across seeds that texts must differ. 21.7: 99 % at 9 degrees of freedom."""
    first = torch.tensor([float(sampling.uniforms(sampling.seed_of(0, request), 1)) for request in range(2000)])
    counts = torch.histc(first.float(), bins=10, min=0, max=1)
    assert float(((counts - 200) ** 2 / 200).sum()) < 21.7


def test_the_ends_of_the_unit_interval_draw_tokens_that_are_possible():
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    edges = torch.tensor([0.0, math.nextafter(0.25, 0), 0.25, math.nextafter(1.0, 0)], dtype=torch.float64)
    assert sampling.draw(probabilities.expand(4, -1), edges).tolist() == [1, 1, 3, 3]
    uneven = torch.full((1, 3), 1 / 3)
    assert sampling.draw(uneven, torch.tensor([math.nextafter(1.0, 0)], dtype=torch.float64)).tolist() == [2]


def test_more_numbers_of_a_seed_begin_with_the_same_ones():
    assert torch.equal(sampling.uniforms(5, 3), sampling.uniforms(5, 300)[:3])
    assert torch.equal(sampling.uniforms(5, 17), sampling.uniforms(5, 300)[:17])


def test_request_i_draws_by_seed_plus_i_and_samples_differ():
    assert sampling.seed_of(5, 2) == sampling.seed_of(7, 0) == 7
    seeds = {sampling.seed_of(0, request, sample) for request in range(50) for sample in range(50)}
    assert len(seeds) == 2500
