from __future__ import annotations

import itertools

import pytest

from ciyuan.generation import DecodingSettings, Translation, translate, translate_stream
from ciyuan.generation.guard import length_flag, loops, repeats
from tests.generation.parrot import EOS, Letters, Parrot

GREEDY = DecodingSettings(beam=1)


@pytest.mark.parametrize("settings", [DecodingSettings(beam=2), GREEDY])
def test_there_is_one_translation_for_each_text_in_its_place(settings):
    texts = ["Hello", "", "a", "   ", "some longer text, all of it", "\n", "Hello", "zz"]
    found = translate(Parrot(), Letters(), texts, settings=settings)
    assert [translation.text for translation in found] == texts
    assert found[0] == found[6]
    assert found[1] == Translation("")
    assert not any(translation.truncated or translation.flags for translation in found)


def test_no_texts_no_translations():
    assert translate(Parrot(), Letters(), []) == []
    assert list(translate_stream(Parrot(), Letters(), [])) == []


def test_line_breaks_and_white_space_around_lines_stay():
    text = "  one\r\n\n\ttwo \nthree\r"
    (found,) = translate(Parrot(), Letters(), [text], settings=GREEDY)
    assert found.text == text
    assert Letters().decode(found.tokens) == "onetwothree"


def test_each_distinct_text_is_read_once():
    model = Parrot()
    translate(model, Letters(), ["same"] * 50 + ["other"], settings=GREEDY)
    assert sum(model.rows_read) == 2


def test_batches_keep_to_their_budget_and_rows_are_sorted_by_length():
    model = Parrot()
    texts = ["a" * n for n in (40, 1, 39, 2, 38, 3)]
    found = translate(model, Letters(), texts, settings=DecodingSettings(beam=2, batch_tokens=200))
    assert [translation.text for translation in found] == texts
    assert model.rows_read == [3, 2, 1]  # of 100 tokens: three short ones count 16 each, two of 40, one of 41


def test_the_model_keeps_its_mode():
    model = Parrot().train()
    translate(model, Letters(), ["a"])
    assert model.training
    assert model.modes == {False}
    model.eval()
    translate(model, Letters(), ["a"])
    assert not model.training


def test_the_limit_cuts_and_says_so():
    (found,) = translate(Parrot(), Letters(), ["abcdefgh"], settings=DecodingSettings(max_length=5))
    assert found.text == "abcde"
    assert found.finish_reason == "length"
    assert found.truncated
    (found,) = translate(Parrot(), Letters(), ["abcd"], settings=DecodingSettings(max_length=5))
    assert (found.text, found.finish_reason, found.truncated) == ("abcd", "stop", False)


def test_a_limit_follows_the_source_and_never_leaves_the_positions():
    settings = DecodingSettings(length_factor=2, length_extra=3)
    assert settings.limit(5, 512) == 13
    assert settings.limit(400, 512) == 512
    assert DecodingSettings(max_length=600).limit(1, 512) == 512


def test_a_loop_is_tried_again_without_repeats():
    (found,) = translate(Parrot(), Letters(), ["xyz@"])
    assert found.text == "xyzzz"  # zzz may be written once
    assert found.flags == ("retried",)
    assert not found.truncated


def test_a_loop_that_nothing_helps_is_flagged_and_not_tried_again():
    settings = DecodingSettings(no_repeat_ngram=12)
    (found,) = translate(Parrot(), Letters(), ["xyz@"], settings=settings)
    assert "loop" in found.flags
    assert "retried" not in found.flags
    assert set(found.text[2:]) == {"z"}


def test_a_text_that_goes_on_without_end_is_tried_again_too():
    """Its period is longer than any loop looked for."""
    text = "abcdefghijkl"
    (found,) = translate(Parrot(), Letters(), [f"{text}&"])
    assert found.text.startswith(text)
    assert found.flags == ("retried",)
    (found,) = translate(Parrot(), Letters(), [f"{text}&"], settings=DecodingSettings(no_repeat_ngram=60))
    assert set(found.flags) == {"long"}
    assert found.truncated


def test_a_source_that_repeats_itself_may_be_repeated():
    (found,) = translate(Parrot(), Letters(), ["ab" * 12])
    assert found.text == "ab" * 12
    assert found.flags == ()


def test_an_empty_answer_and_a_short_one_are_flagged():
    empty, short = translate(Parrot(), Letters(), ["#abc", "a" + "#" * 30])
    assert (empty.text, empty.flags) == ("", ("empty",))
    assert (short.text, short.flags) == ("a", ("short",))


def test_what_is_too_long_is_read_in_sentences_and_nothing_is_lost():
    sentences = ["This is the first one.", "Here comes another.", "The third follows them.", "A last one!"]
    text = " ".join(sentences)
    model = Parrot(max_positions=64)
    (found,) = translate(model, Letters(), [text], source="en", target="en", max_source=30)
    assert found.text == text
    assert found.flags == ("split",)
    assert not found.truncated
    assert sum(model.rows_read) == 4


def test_pieces_are_joined_without_a_space_in_chinese():
    text = "你好世界。世界你好。你好，世界。"
    for target in ("zh", "zh-Hans", "ja"):
        (found,) = translate(Parrot(), Letters(), [text], source="zh", target=target, max_source=6)
        assert found.text == text
    (found,) = translate(Parrot(), Letters(), [text], source="zh", target="en", max_source=6)
    assert found.text == "你好世界。 世界你好。 你好，世界。"


@pytest.mark.parametrize("text", ["abc " * 40, "a" * 100, "你好，世界" * 12, "word, " * 20])
def test_a_sentence_without_end_is_cut_within_and_nothing_is_lost(text):
    (found,) = translate(Parrot(), Letters(), [text], source="en", target="zh", max_source=20, settings=GREEDY)
    assert found.text.replace(" ", "") == text.replace(" ", "")
    assert set(found.flags) == {"split", "cut"}
    assert not found.truncated


def test_a_text_that_fits_is_left_whole():
    model = Parrot()
    (found,) = translate(model, Letters(), ["One. Two. Three."], source="en", target="en", max_source=16)
    assert found.text == "One. Two. Three."
    assert sum(model.rows_read) == 1
    assert found.flags == ()


def test_one_character_that_the_model_cannot_read_whole_is_truncated():

    class Thrice(Letters):
        def encode_batch(self, texts):
            return [[i for i in ids for _ in range(3)] for ids in super().encode_batch(texts)]

    (found,) = translate(Parrot(), Thrice(), ["ab"], max_source=2)
    assert found.text == "aa bb"
    assert found.truncated


def test_a_stream_is_answered_in_order_while_it_is_still_coming():
    read = []

    def lines():
        for text in ["bb", "a", "", "ccc", "dd"]:
            read.append(text)
            yield text

    answers = translate_stream(Parrot(), Letters(), lines(), chunk=2, settings=GREEDY)
    assert [translation.text for translation in itertools.islice(answers, 2)] == ["bb", "a"]
    assert read == ["bb", "a"]
    assert [translation.text for translation in answers] == ["", "ccc", "dd"]


def test_repeats_counts_runs_of_every_period():
    assert repeats([]) == 1
    assert repeats([7] * 8) == 8
    assert repeats([7] * 7) == 1  # too short to be a loop
    assert repeats([1, 2, 3] * 4) == 4
    assert repeats([9, *[1, 2, 3] * 5, 8]) == 5
    assert repeats(list(range(10)) * 2) == 2
    assert repeats(list(range(11)) * 4) == 1  # longer than any loop looked for
    assert repeats([1, 2, 1, 3, 1, 4, 1, 5, 1]) == 1


def test_a_loop_is_more_repetition_than_the_source_has():
    assert loops([7] * 10, [5, 6])
    assert not loops([7] * 10, [5] * 9)
    assert loops([7] * 40, [5] * 9)
    assert not loops([1, 2, 3, 4] * 3, [5, 6])


def test_a_length_is_judged_next_to_its_source():
    assert length_flag(0, 1) == "empty"
    assert length_flag(10, 1) is None
    assert length_flag(63, 20) == "long"
    assert length_flag(62, 20) is None
    assert length_flag(20, 63) == "short"
    assert length_flag(20, 62) is None


def test_parrot_ends_with_eos():
    (found,) = translate(Parrot(), Letters(), ["ab"])
    assert EOS not in found.tokens
    assert found.finish_reason == "stop"
