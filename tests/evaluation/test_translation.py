from __future__ import annotations

import pytest

from ciyuan.errors import UserError
from ciyuan.evaluation import evaluate_translation

REFERENCES = ["Open the file menu.", "Save it now.", "Close all the windows.", "Nothing is lost."]


def test_bleu_and_chrf_come_with_their_signatures():
    scores = evaluate_translation(REFERENCES, REFERENCES, language="en")
    assert scores.metrics == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    assert scores.signatures.keys() == scores.metrics.keys()
    assert "tok:13a" in scores.signatures["bleu"]
    assert scores.examples == 4
    assert scores.warnings == ()


def test_chinese_is_scored_as_chinese():
    scores = evaluate_translation(["打开文件。"], ["打开该文件。"], language="zh")
    assert "tok:zh" in scores.signatures["bleu"]
    with pytest.raises(UserError, match="meaningless"):
        evaluate_translation(["打开文件。"], ["打开该文件。"], language="en")
    forced = evaluate_translation(["打开文件。"], ["打开该文件。"], language="zh", tokenizer="13a", force=True)
    assert "tok:13a" in forced.signatures["bleu"]


def test_empty_outputs_are_warned_of():
    scores = evaluate_translation(["", " ", *REFERENCES[2:]], REFERENCES, language="en")
    assert "2 of 4 outputs (50%) are empty" in scores.warnings


def test_copies_of_the_source_are_warned_of_unless_they_are_right():
    sources = ["Menü öffnen.", "Save it now.", "Fenster.", "Nichts."]
    outputs = [sources[0], *REFERENCES[1:]]
    scores = evaluate_translation(outputs, REFERENCES, language="en", sources=sources)
    assert "1 of 4 outputs (25%) only copy their source" in scores.warnings


def test_the_same_answer_to_everything_is_warned_of():
    scores = evaluate_translation(["Save it now."] * 4, REFERENCES, language="en")
    assert '3 of 4 outputs (75%) wrongly say the same, "Save it now."' in scores.warnings
    assert evaluate_translation(["A b c."] * 4, ["A b c."] * 4, language="en").warnings == ()


@pytest.mark.parametrize(
    ("outputs", "ratio"), [(["Open.", "Save.", "Close.", "No."], "0."), ([text * 2 for text in REFERENCES], "2.00")]
)
def test_outputs_of_implausible_length_are_warned_of(outputs, ratio):
    (warning,) = evaluate_translation(outputs, REFERENCES, language="en").warnings
    assert f"{ratio}" in warning
    assert "times as many characters" in warning
