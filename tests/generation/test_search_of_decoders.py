"""Decoders and their prompts, drawing, groups and other endings: the batched search against the oracle."""

from __future__ import annotations

import functools
import itertools
import random

import pytest
import torch

from ciyuan.generation import GenerationSettings, decoding, sampling, search
from ciyuan.generation.decoding import forbidden_tokens
from tests.generation.test_search import SHARPER, limits, same, sharp, sources
from tests.model.builders import VARIANTS, build


@functools.cache
def sharp_decoder(variant: str, dtype: torch.dtype = torch.float64, **changes: object):
    model = build("decoder", variant, seed=3, logit_scale=SHARPER, **changes)
    return model.to(dtype)


def prompts(n: int, seed: int, longest: int = 9) -> list[list[int]]:
    """BOS and up to `longest` tokens more, of different lengths."""
    draw = random.Random(seed)
    return [[1, *(draw.randrange(3, 23) for _ in range(draw.randrange(0, longest)))] for _ in range(n)]


PRECISIONS = [(variant, torch.float64) for variant in VARIANTS] + [
    ("pre-norm rotary grouped q/k-norm gated", torch.float32)
]

BEAMS = (
    {"beam": 1},
    {"beam": 3, "length_penalty": 0.0, "no_repeat_ngram": 2},
    {"beam": 4, "repetition_penalty": 1.3},
    {"beam": 4, "groups": 2, "diversity_penalty": 2.0},
    {"beam": 6, "groups": 3, "diversity_penalty": 5.0, "no_repeat_ngram": 1, "length_penalty": 0.6},
    {"beam": 3, "early_stop": True},
)


@pytest.mark.parametrize(("variant", "dtype"), PRECISIONS)
def test_beam_search_of_a_decoder_is_the_oracle_for_prompts_of_every_length(variant, dtype):
    model = sharp_decoder(variant, dtype)
    rows, caps = prompts(4, seed=1), limits(4, seed=4, most=6)
    for options in BEAMS:
        found = search.beam_search(
            model, search.read_source(model, rows), limits=caps, n_best=options["beam"], **options
        )
        for row, cap, hypotheses in zip(rows, caps, found):
            scorer = decoding.scorer(model, row, forbidden=forbidden_tokens(model.config))
            wanted = decoding.beam(scorer, eos_id=2, limit=cap, prompt=row, **options)
            same(hypotheses, wanted, 1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("options", BEAMS, ids=str)
def test_every_beam_of_an_encoder_decoder_is_the_oracle(options):
    model = sharp("post-norm sinusoidal")
    rows, caps = sources(6, seed=1), limits(6, seed=4, most=9)
    found = search.beam_search(model, search.read_source(model, rows), limits=caps, n_best=options["beam"], **options)
    for row, cap, hypotheses in zip(rows, caps, found):
        scorer = decoding.scorer(model, row, forbidden=forbidden_tokens(model.config))
        same(hypotheses, decoding.beam(scorer, eos_id=2, limit=cap, **options), 1e-9)


def test_a_beam_that_ends_otherwise_than_by_eos_is_the_oracle():
    model = sharp_decoder("pre-norm rotary grouped q/k-norm gated")
    rows = prompts(4, seed=5)
    for options in ({"beam": 3}, {"beam": 4, "groups": 2, "diversity_penalty": 1.0}):
        found = search.beam_search(
            model, search.read_source(model, rows), limits=[8] * 4, n_best=options["beam"],
            ended=lambda text, tokens: sum(tokens) % 5 == text, **options,
        )  # fmt: skip
        endings = 0
        for text, (row, hypotheses) in enumerate(zip(rows, found)):
            scorer = decoding.scorer(model, row, forbidden=forbidden_tokens(model.config))
            wanted = decoding.beam(
                scorer, eos_id=2, limit=8, ends=lambda tokens, text=text: sum(tokens) % 5 == text, **options
            )
            same(hypotheses, wanted, 1e-9)
            endings += sum(h.finish_reason == "stop" and len(h.tokens) == len(h.log_probs) for h in hypotheses)
        assert endings > 3


SAMPLERS = (
    {"temperature": 0.0, "repetition_penalty": 1.3, "no_repeat_ngram": 2},
    {"temperature": 1.0},
    {"temperature": 3.0, "top_k": 5, "repetition_penalty": 1.2},
    {"temperature": 2.0, "top_p": 0.8, "no_repeat_ngram": 1},
    {"temperature": 4.0, "min_p": 0.05, "top_p": 0.95},
)


@pytest.mark.parametrize(("variant", "dtype"), PRECISIONS)
@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_sampling_is_the_oracle(family, variant, dtype):
    model = sharp_decoder(variant, dtype) if family == "decoder" else sharp(variant, dtype)
    rows = prompts(4, seed=2) if family == "decoder" else sources(4, seed=2)
    caps = limits(4, seed=4, most=7)
    for options in SAMPLERS:
        seeds = list(range(40, 44))
        found = search.sample_search(
            model, search.read_source(model, rows), limits=caps, settings=GenerationSettings(**options), seeds=seeds
        )
        for row, cap, seed, hypothesis in zip(rows, caps, seeds, found):
            wanted = decoding.sample(
                decoding.next_logits(model, row), eos_id=2, limit=cap, uniforms=sampling.uniforms(seed, cap).tolist(),
                prompt=row if family == "decoder" else (), forbidden=forbidden_tokens(model.config), **options,
            )  # fmt: skip
            same([hypothesis], [wanted], 1e-9 if dtype == torch.float64 else 1e-4)


def test_greedy_search_of_a_decoder_is_the_oracle():
    for variant in VARIANTS:
        model = sharp_decoder(variant)
        rows, caps = prompts(6, seed=5), limits(6, seed=6)
        for no_repeat_ngram in (0, 2):
            found = search.greedy_search(
                model, search.read_source(model, rows), limits=caps, no_repeat_ngram=no_repeat_ngram
            )
            for row, cap, hypothesis in zip(rows, caps, found):
                wanted = decoding.sample(
                    decoding.next_logits(model, row), eos_id=2, limit=cap, uniforms=[0.0] * cap, temperature=0,
                    prompt=row, no_repeat_ngram=no_repeat_ngram, forbidden=forbidden_tokens(model.config),
                )  # fmt: skip
                same([hypothesis], [wanted], 1e-9)


def test_a_decoders_beam_as_wide_as_the_space_finds_the_best_text_of_all():
    model = build("decoder", "pre-norm rotary grouped q/k-norm gated", vocab_size=5, logit_scale=2.0)
    scorer = decoding.scorer(model, [1, 4, 3], forbidden=(0, 1))
    texts = []
    for words in itertools.product((2, 3, 4), repeat=3):
        text = list(words[: words.index(2) + 1] if 2 in words else words)
        texts.append((sum(float(scorer(text[:i])[token]) for i, token in enumerate(text)), text))
    wanted = max(texts)
    ((best,),) = search.beam_search(
        model, search.read_source(model, [[1, 4, 3]]), beam=27, limits=[3], length_penalty=0.0
    )
    assert [*best.tokens, *[2] * (best.finish_reason == "stop")] == wanted[1]
    assert best.score == pytest.approx(wanted[0], abs=1e-9)


def test_stop_ids_end_a_text_as_eos_does():
    model = sharp_decoder("post-norm sinusoidal")
    rows = prompts(6, seed=8)
    source = search.read_source(model, rows)
    free = search.beam_search(model, source, beam=1, limits=[9] * 6)
    stop = free[0][0].tokens[2]
    for hypotheses, (before,) in zip(search.beam_search(model, source, beam=1, limits=[9] * 6, stop_ids=[stop]), free):
        (found,) = hypotheses
        if stop in before.tokens:
            cut = before.tokens.index(stop)
            assert (found.tokens, found.finish_reason) == (before.tokens[:cut], "stop")
            assert len(found.log_probs) == cut + 1
        else:
            assert found.tokens == before.tokens


def test_a_prompt_is_read_once_for_all_its_beams():
    model = sharp_decoder("post-norm sinusoidal")
    read: list[tuple[int, int]] = []
    handle = model.decoder.register_forward_pre_hook(lambda _, args: read.append(tuple(args[0].shape[:2])))
    try:
        search.beam_search(model, search.read_source(model, [[1, 5, 6, 7, 8]] * 2), beam=4, limits=[3] * 2)
    finally:
        handle.remove()
    assert read[0] == (2, 5)
    assert {width for _, width in read[1:]} == {1}
