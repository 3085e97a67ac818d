"""The same texts as transformers' generate, and the same arithmetic in every filter."""

from __future__ import annotations

import functools
import itertools
import warnings
from typing import Any

import pytest
import torch

from ciyuan.generation import GenerationSettings, sampling, search
from ciyuan.interop import to_hugging_face
from ciyuan.model import ModelSettings, Transformer, initialise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers
    from transformers.generation import logits_process

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend

PAD, BOS, EOS, VOCABULARY = 0, 1, 2, 29
PROMPTS = [[BOS, 5, 6, 7, 6, 5], [BOS, 20], [BOS, 9, 9, 9, 4, 28, 3, 3]]
LIMIT = 10


@functools.cache
def both(preset: str) -> tuple[Any, Transformer]:
    """Theirs and ours, the same random weights."""
    kind = transformers.GPT2LMHeadModel if preset == "gpt2-2019" else transformers.Qwen3ForCausalLM
    asked = ModelSettings(preset=preset, d_model=32, n_layers=2, n_heads=4, d_ff=48, max_positions=40, dropout=0.0)
    ours = Transformer(asked.build(VOCABULARY, pad_id=PAD, bos_id=BOS, eos_id=EOS))
    initialise(ours, scheme="xavier", seed=4)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    options, tensors = to_hugging_face(ours)
    theirs = kind(kind.config_class(**options)).eval()
    theirs.load_state_dict(tensors, strict=False)
    theirs.tie_weights()
    return theirs, ours.eval()


def their_texts(theirs: Any, prompt: list[int], **options: Any) -> list[list[int]]:
    ids = torch.tensor([prompt])
    with torch.no_grad():
        found = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=LIMIT,
            pad_token_id=PAD,
            eos_token_id=EOS,
            **options,
        )
    rows = found[:, len(prompt) :].tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


def whole(hypothesis: Any) -> list[int]:
    return [*hypothesis.tokens, *[EOS] * (len(hypothesis.log_probs) - len(hypothesis.tokens))]


@pytest.mark.parametrize("preset", ["gpt2-2019", "modern-decoder"])
def test_logits_agree_or_the_rest_proves_nothing(preset):
    theirs, ours = both(preset)
    source = search.read_source(ours, PROMPTS[:1])
    with torch.no_grad():
        wanted = theirs(source.tokens).logits
        torch.testing.assert_close(ours.logits(ours.hidden(source)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["gpt2-2019", "modern-decoder"])
@pytest.mark.parametrize(("penalty", "ngram"), [(1.0, 0), (1.3, 0), (1.0, 2), (0.8, 3)])
def test_greedy_texts_are_those_of_generate(preset, penalty, ngram):
    theirs, ours = both(preset)
    found = search.sample_search(
        ours, search.read_source(ours, PROMPTS), limits=[LIMIT] * 3, forbidden=(), seeds=[0] * 3,
        settings=GenerationSettings(repetition_penalty=penalty, no_repeat_ngram=ngram),
    )  # fmt: skip
    for prompt, hypothesis in zip(PROMPTS, found):
        (wanted,) = their_texts(theirs, prompt, do_sample=False, repetition_penalty=penalty, no_repeat_ngram_size=ngram)
        assert whole(hypothesis) == wanted


@pytest.mark.parametrize("preset", ["gpt2-2019", "modern-decoder"])
@pytest.mark.parametrize(
    ("beam", "length_penalty", "early_stop", "penalty", "ngram"),
    [(3, 1.0, False, 1.0, 0), (4, 0.0, False, 1.0, 2), (4, 1.5, True, 1.0, 0), (2, 0.6, False, 1.2, 0)],
)
def test_beams_are_those_of_generate(preset, beam, length_penalty, early_stop, penalty, ngram):
    theirs, ours = both(preset)
    found = search.beam_search(
        ours, search.read_source(ours, PROMPTS), beam=beam, limits=[LIMIT] * 3, length_penalty=length_penalty,
        n_best=beam, forbidden=(), repetition_penalty=penalty, no_repeat_ngram=ngram, early_stop=early_stop,
    )  # fmt: skip
    for prompt, hypotheses in zip(PROMPTS, found):
        wanted = their_texts(
            theirs, prompt, do_sample=False, num_beams=beam, num_return_sequences=beam, early_stopping=early_stop,
            length_penalty=length_penalty, repetition_penalty=penalty, no_repeat_ngram_size=ngram,
        )  # fmt: skip
        assert [whole(hypothesis) for hypothesis in hypotheses] == wanted


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p", "penalty", "ngram"),
    list(itertools.product((0.6, 1.8), (0, 7), (1.0, 0.7), (0.0, 0.15), (1.0, 1.3), (0, 2))),
)
def test_the_distribution_is_that_of_their_processors(temperature, top_k, top_p, min_p, penalty, ngram):
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(6, VOCABULARY, generator=generator, dtype=torch.float64)
    written = torch.randint(3, 9, (6, 7), generator=generator)
    their = [logits_process.RepetitionPenaltyLogitsProcessor(penalty)]
    their += [logits_process.NoRepeatNGramLogitsProcessor(ngram)] if ngram else []
    their.append(logits_process.TemperatureLogitsWarper(temperature))
    their += [logits_process.TopKLogitsWarper(top_k)] if top_k else []
    their += [logits_process.TopPLogitsWarper(top_p)] if top_p < 1 else []
    their += [logits_process.MinPLogitsWarper(min_p)] if min_p else []
    wanted = logits.clone()
    for processor in their:
        wanted = processor(written, wanted)
    asked = GenerationSettings(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=penalty,
        no_repeat_ngram=ngram,
    )
    found = sampling.distribution(logits, written, asked)
    torch.testing.assert_close(found, wanted.softmax(dim=1), rtol=0, atol=1e-12)
