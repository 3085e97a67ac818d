"""Beam search and greedy search next to Hugging Face's, on the same random Marian model.

One thing differs, and the models here are told not to do it: a MarianMTModel that reaches its limit is made to write EOS
(`forced_eos_token_id`), where ours says that the text was cut.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ciyuan.generation import search
from ciyuan.interop.huggingface import load_transformer
from tests.parity.reference import transformers

PAD, EOS, VOCAB = 0, 2, 37


def pair(seed: int, folder: Path):
    """Their model and ours with the same weights, sure enough of themselves not to be tied within rounding."""
    torch.manual_seed(seed)
    config = transformers.MarianConfig(
        vocab_size=VOCAB, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40, activation_function="relu", scale_embedding=True,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=1, decoder_start_token_id=PAD, forced_eos_token_id=None, init_std=0.6,
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    with torch.no_grad():
        theirs.final_logits_bias.normal_()
        theirs.final_logits_bias[0, EOS] += 8  # so that texts end in both ways
    theirs.save_pretrained(folder)
    return theirs, load_transformer(folder)


def sources(n: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 10, (n,), generator=generator).tolist()
    return [[*torch.randint(3, VOCAB, (length,), generator=generator).tolist(), EOS] for length in lengths]


def written(hypothesis) -> list[int]:
    return [*hypothesis.tokens, *[EOS] * (hypothesis.finish_reason == "stop")]


def generated(theirs, rows, **options):
    """What generate() writes, without the start and padding, and its sequences_scores."""
    forbidden = {"bad_words_ids": [[PAD], [1]], "renormalize_logits": False}
    out = theirs.generate(
        rows.tokens, attention_mask=rows.layout.is_text.long(), max_new_tokens=12, do_sample=False, output_scores=True,
        return_dict_in_generate=True, **forbidden, **options,
    )  # fmt: skip
    texts = []
    for row in out.sequences[:, 1:].tolist():
        text = row[: row.index(EOS) + 1] if EOS in row else row
        texts.append([token for token in text if token != PAD])
    return texts, out.get("sequences_scores")


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("beam", [2, 4])
@pytest.mark.parametrize("seed", range(2))
def test_beam_search_writes_and_scores_what_generate_does(seed, beam, length_penalty, tmp_path):
    theirs, ours = pair(seed, tmp_path)
    rows = search.read_source(ours, sources(10, seed))
    texts, scores = generated(
        theirs, rows, num_beams=beam, num_return_sequences=beam, length_penalty=length_penalty, early_stopping=False
    )
    found = search.beam_search(ours, rows, beam=beam, limits=[12] * 10, length_penalty=length_penalty, n_best=beam)
    flat = [hypothesis for hypotheses in found for hypothesis in hypotheses]
    assert [written(hypothesis) for hypothesis in flat] == texts
    assert [hypothesis.rank(length_penalty) for hypothesis in flat] == pytest.approx(scores.tolist(), abs=1e-3)
    assert {hypothesis.finish_reason for hypothesis in flat} == {"stop", "length"} or length_penalty == 0


@pytest.mark.parametrize("no_repeat_ngram", [0, 2])
@pytest.mark.parametrize("seed", range(2))
def test_greedy_search_writes_what_generate_does(seed, no_repeat_ngram, tmp_path):
    theirs, ours = pair(seed, tmp_path)
    rows = search.read_source(ours, sources(10, seed))
    texts, _ = generated(theirs, rows, num_beams=1, no_repeat_ngram_size=no_repeat_ngram)
    found = search.greedy_search(ours, rows, limits=[12] * 10, no_repeat_ngram=no_repeat_ngram)
    assert [written(hypothesis) for hypothesis in found] == texts


def test_beam_search_without_repeats_writes_what_generate_does(tmp_path):
    theirs, ours = pair(5, tmp_path)
    rows = search.read_source(ours, sources(10, 5))
    texts, _ = generated(theirs, rows, num_beams=3, no_repeat_ngram_size=2, early_stopping=False)
    found = search.beam_search(ours, rows, beam=3, limits=[12] * 10, no_repeat_ngram=2)
    assert [written(best) for (best,) in found] == texts
