"""What counts as a difference, without starting a process: the answers are made up from our own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ciyuan.export.probe import build_probe, next_logits, our_outputs, our_text
from ciyuan.export.proof import NextToken, Proof, Tolerance, prove
from ciyuan.interop.runners.process import Answers
from ciyuan.model import Transformer
from ciyuan.text import Tokenizer
from tests.interop.folders import config, model, tokenizer_for


def made() -> tuple[Transformer, Tokenizer]:
    tokens = tokenizer_for("gpt2-2019")
    return model(config("gpt2-2019", tokens)), tokens


def answers(ours: Transformer, tokens: Tokenizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """As a runtime without a fault gives them."""
    probe = build_probe(ours, tokens)
    greedy = our_text(ours, probe)
    values = {
        "ids": tokens.encode_batch(probe.texts),
        "framed": [encoding.ids for encoding in tokens.backend.encode_batch(list(probe.texts))],
        "greedy": greedy, "greedy_text": [tokens.decode(ids) for ids in greedy], "problems": [],
    }  # fmt: skip
    logits = our_outputs(ours, probe, ["logits"])["logits"]
    return values, {f"logits.{i}": each.copy() for i, each in enumerate(logits)}


def judged(
    ours: Transformer, tokens: Tokenizer, values: dict[str, Any], arrays: dict[str, Any], most: float = 1e-4,
    next_token: NextToken | None = None,
) -> Proof:  # fmt: skip
    probe = build_probe(ours, tokens)
    tolerance = Tolerance(most, next_token=next_token)
    return prove(ours, tokens, probe, Answers(values, arrays), outputs=["logits"], tolerance=tolerance)


def test_equal_answers_hold() -> None:
    ours, tokens = made()
    proof = judged(ours, tokens, *answers(ours, tokens))
    assert proof.holds
    assert proof.compared["greedy text"]["equal"] == proof.compared["greedy text"]["of"] == 11


@pytest.mark.parametrize(("kind", "name"), [("ids", "ids of texts"), ("framed", "ids with special tokens")])
def test_another_token_is_named_with_its_text_and_place(kind: str, name: str) -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    values[kind][2][5] += 1
    differences = judged(ours, tokens, values, arrays).differences
    assert differences[0].startswith(f"{name}: token 5 of probe text 3 ('def area(radius):")


def test_one_logit_is_named_with_its_text_position_and_token() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    arrays["logits.1"][4, 17] += 0.5
    proof = judged(ours, tokens, values, arrays)
    assert proof.differences[0].startswith(
        "logits of probe text 2 ('北京是中国的首都，人口超过两千万。') at position 4, token "
    )
    assert judged(ours, tokens, values, arrays, most=1.0).holds


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_a_difference(wrong: float) -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    arrays["logits.0"][0, 0] = wrong
    assert not judged(ours, tokens, values, arrays, most=1e9).holds


def test_missing_and_misshapen_answers_are_differences() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    first = arrays.pop("logits.0")
    assert judged(ours, tokens, values, arrays).differences[0].endswith("there is none there")
    arrays["logits.0"] = first[:, 1:]
    assert "of shape" in judged(ours, tokens, values, arrays).differences[0]


def test_another_greedy_token_is_a_difference_but_for_a_tie() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    values["greedy"][2] = [*values["greedy"][2][:3], 7, *values["greedy"][2][4:]]
    values["greedy_text"][2] = tokens.decode(values["greedy"][2])
    proof = judged(ours, tokens, values, arrays)
    assert "greedy text after probe text 3" in proof.differences[0]
    assert ": token 3 is" in proof.differences[0]
    tied = judged(ours, tokens, values, arrays, most=100.0)
    assert tied.holds
    assert len(tied.compared["greedy text"]["ties"]) == 1


@pytest.mark.parametrize(("rows", "holds"), [(0, True), (1, True), (2, False), (-1, False)])
def test_the_logits_along_a_written_text_may_have_those_of_its_end(rows: int, holds: bool) -> None:
    tokens = tokenizer_for("modern-seq2seq")
    ours = model(config("modern-seq2seq", tokens))
    values, _ = answers(ours, tokens)
    probe = build_probe(ours, tokens)
    arrays = {}
    for i, (prompt, written) in enumerate(zip(probe.prompts, values["greedy"], strict=True)):
        logits = next_logits(ours, prompt, written)  # one row more than tokens
        logits = np.concatenate([logits, logits[-1:]])
        arrays[f"written_logits.{i}"] = logits[: len(written) + rows]
    proof = prove(ours, tokens, probe, Answers(values, arrays), outputs=["written_logits"], tolerance=Tolerance(1e-4))
    assert proof.holds == holds


def test_text_that_reads_otherwise_there_is_a_difference() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    values["greedy_text"][0] += " "
    assert "the same ids are" in judged(ours, tokens, values, arrays).differences[0]


def test_what_the_runtime_says_of_the_weights_is_a_difference() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    values["problems"] = ["missing_keys: lm_head.weight"]
    assert not judged(ours, tokens, values, arrays).holds


def test_in_fewer_bits_it_is_the_next_token_that_counts() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    arrays["logits.0"][0] += 3.0  # as likely as before, every one
    proof = judged(ours, tokens, values, arrays, next_token=NextToken(divergence=1e-3, margin=0.1))
    assert proof.holds
    facts = proof.compared["logits"]["next token"]
    assert facts["same"] == facts["of"] == sum(len(each) for each in arrays.values())
    assert facts["mean divergence"] < 1e-6
    assert facts["widest margin lost"] is None
    assert not judged(ours, tokens, values, arrays).holds, "where no bits were saved the numbers count"


def test_another_likeliest_token_is_a_difference_where_ours_led_by_more_than_the_margin() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    row = arrays["logits.2"][5]
    first, second = row.argsort()[[-1, -2]]
    lead = row[first] - row[second]
    row[[first, second]] = row[[second, first]]
    strict = judged(ours, tokens, values, arrays, next_token=NextToken(divergence=9.0, margin=0.9 * lead))
    assert "logits of probe text 3" in strict.differences[0]
    assert f"at position 5: {tokens.token(int(first))} is likeliest for us by" in strict.differences[0]
    mild = judged(ours, tokens, values, arrays, next_token=NextToken(divergence=9.0, margin=1.1 * lead))
    assert mild.holds
    assert mild.compared["logits"]["next token"]["widest margin lost"] == pytest.approx(lead, rel=1e-4)


def test_predictions_that_diverge_on_average_are_a_difference() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    for each in arrays.values():
        each *= 0.5  # the same order, flatter
    proof = judged(ours, tokens, values, arrays, next_token=NextToken(divergence=1e-3, margin=0.0))
    assert "theirs diverge from ours" in proof.differences[0]
    assert proof.compared["logits"]["next token"]["same"] == proof.compared["logits"]["next token"]["of"]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_in_fewer_bits_too_what_is_no_number_is_a_difference(wrong: float) -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    arrays["logits.0"][0, 0] = wrong
    assert not judged(ours, tokens, values, arrays, next_token=NextToken(divergence=1e9, margin=1e9)).holds


def test_where_texts_part_the_margin_is_told_beside_the_usual_one() -> None:
    ours, tokens = made()
    values, arrays = answers(ours, tokens)
    values["greedy"][2] = [*values["greedy"][2][:3], 7, *values["greedy"][2][4:]]
    values["greedy_text"][2] = tokens.decode(values["greedy"][2])
    told = judged(ours, tokens, values, arrays, next_token=NextToken(divergence=1.0, margin=100.0))
    assert told.holds
    facts = told.compared["greedy text"]
    assert 0 < facts["margins where texts part"]["widest"] < facts["margins where texts part"]["allowed"] == 100.0
    assert facts["usual margin"] > 0
    assert "usual margin" not in judged(ours, tokens, *answers(ours, tokens)).compared["greedy text"]
