from __future__ import annotations

import functools

import pytest
import torch

from ciyuan.errors import UserError
from ciyuan.generation import GenerationSettings, completion, generate, generate_stream
from ciyuan.model import Transformer
from ciyuan.text import SpecialTokens, Tokenizer, TokenizerSettings
from tests.generation.script import Script
from tests.model.builders import build

TEXTS = [
    "Choose File - Print, then click OK.",
    "Opens the Help menu.",
    "选择「文件」-「打印」，然后单击「确定」。",
    "打开帮助菜单。",
] * 20
PROMPTS = ["打开", "Choose File", "", "Opens the Help menu. 打开帮助"]
KINDS = ("unigram", "bpe", "bytes")

WAYS = {
    "greedy": {},
    "greedy with rules": {"repetition_penalty": 1.3, "no_repeat_ngram": 2},
    "drawn": {"temperature": 1.0, "seed": 3},
    "drawn, filtered": {
        "temperature": 1.4,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "seed": 11,
    },
    "drawn, three each": {"temperature": 1.0, "n_best": 3, "no_repeat_ngram": 3},
    "beam": {"beam": 3, "n_best": 3, "length_penalty": 0.6},
    "beam with rules": {"beam": 3, "early_stop": True, "repetition_penalty": 1.2, "no_repeat_ngram": 2},
    "groups": {"beam": 4, "beam_groups": 2, "diversity_penalty": 1.0, "n_best": 4},
    "stop strings": {"temperature": 1.0, "stop": ("e", "的", "\n"), "seed": 5},
    "beam and stop strings": {"beam": 2, "stop": ("e", "。"), "n_best": 2},
}


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer.train(TEXTS, TokenizerSettings(kind=kind, vocab_size=400))


@functools.cache
def model(family: str, variant: str = "pre-norm rotary grouped q/k-norm gated", kind: str = "bpe") -> Transformer:
    made = build(
        family, variant, seed=5, logit_scale=4.0, vocab_size=tokenizer(kind).vocab_size, max_positions=64,
        n_layers=1, n_decoder_layers=1,
        pad_id=tokenizer(kind).pad_id, bos_id=tokenizer(kind).bos_id, eos_id=tokenizer(kind).eos_id,
    )  # fmt: skip
    return made.float()


def settings(**options: object) -> GenerationSettings:
    return GenerationSettings(**{"max_tokens": 8, **options})


def same(found: completion.Generation, wanted: completion.Generation) -> None:
    assert (found.text, found.tokens, found.finish_reason, found.n_prompt, found.stop_string) == (
        wanted.text, wanted.tokens, wanted.finish_reason, wanted.n_prompt, wanted.stop_string,
    )  # fmt: skip
    assert found.log_probs == pytest.approx(wanted.log_probs, abs=1e-4)
    assert len(found.alternatives) == len(wanted.alternatives)
    for one, other in zip(found.alternatives, wanted.alternatives):
        same(one, other)


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_answers_as_one_at_a_time(family, way):
    asked = settings(**WAYS[way])
    writer, words = model(family), tokenizer("bpe")
    together = generate(writer, words, PROMPTS, settings=asked)
    small = generate(writer, words, PROMPTS, settings=asked.model_copy(update={"batch_tokens": 50}))
    for request, prompt in enumerate(PROMPTS):
        own = asked.model_copy(update={"seed": asked.seed + request})
        (alone,) = generate(writer, words, [prompt], settings=own)
        same(together[request], alone)
        same(small[request], alone)
        assert len(alone.alternatives) == asked.n_best - 1


@pytest.mark.parametrize(
    "variant", ["learned embedding-norm gelu", "pre-norm relative no scaling", "sandwich rotary window"]
)
def test_a_batch_answers_as_one_at_a_time_whatever_the_positions(variant):
    asked = settings(temperature=1.0)
    writer, words = model("decoder", variant), tokenizer("bpe")
    together = generate(writer, words, PROMPTS, settings=asked)
    for request, prompt in enumerate(PROMPTS):
        (alone,) = generate(writer, words, [prompt], settings=asked.model_copy(update={"seed": request}))
        same(together[request], alone)


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_stream_joins_to_the_same_text(family, kind, way):
    writer, words = model(family, kind=kind), tokenizer(kind)
    for prompt in PROMPTS[:2]:
        pieces = list(generate_stream(writer, words, prompt, settings=settings(**WAYS[way])))
        (whole,) = generate(writer, words, [prompt], settings=settings(**WAYS[way]))
        assert "".join(pieces) == whole.text
        assert all(pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_text_are_what_the_tokens_spell(kind):
    words = tokenizer(kind)
    for prompt, answer in (("Choose", " File - Print"), ("打开帮助菜单", "龘。"), ("OK 😀", " 龘b"), ("", "Help 选择")):
        whole = words.encode(prompt + answer)
        read = next(n for n in range(len(whole) + 1) if words.decode(whole[:n]) == prompt)
        ids = [words.bos_id, *whole[:read]]
        told = Script(whole[read:], n_prompt=len(ids), vocab_size=words.vocab_size, eos_id=words.eos_id)
        (found,) = generate(told, words, [ids], settings=settings(max_tokens=99))
        assert (found.text, found.tokens, found.finish_reason) == (answer, tuple(whole[read:]), "stop")
        assert (found.n_prompt, len(found.log_probs)) == (len(ids), len(whole) - read + 1)
        assert "".join(generate_stream(told, words, ids, settings=settings(max_tokens=99))) == answer


def told(kind: str, answer: str, **options: object) -> tuple[completion.Generation, list[str]]:
    """What is made of a model that writes `answer` and stops; by `generate` and by `generate_stream`."""
    words = tokenizer(kind)
    script = Script(words.encode(answer), n_prompt=1, vocab_size=words.vocab_size, eos_id=words.eos_id)
    asked = settings(**{"max_tokens": 99, **options})
    (found,) = generate(script, words, [""], settings=asked)
    return found, list(generate_stream(script, words, "", settings=asked))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beam", [1, 2])
def test_a_stop_string_ends_the_text_wherever_tokens_cut_it(kind, beam):
    for answer, stops, text, stop in (
        ("Help 菜单。打开", ("菜单",), "Help ", "菜单"),
        ("打开帮助龘😀菜单", ("龘😀",), "打开帮助", "龘😀"),
        ("打开帮助龘😀菜单", ("龘x", "助龘"), "打开帮", "助龘"),
        ("a\n\nb", ("\n\n",), "a", "\n\n"),
        ("a\nb", ("\n\n",), "a\nb", None),
        ("ab\n", ("\n\n",), "ab\n", None),
        ("菜单", ("菜单",), "", "菜单"),
    ):
        found, pieces = told(kind, answer, stop=stops, beam=beam)
        assert (found.text, found.stop_string, found.finish_reason) == (text, stop, "stop")
        assert "".join(pieces) == text
        assert len(found.tokens) == len(found.log_probs) - (stop is None)


def test_a_stop_string_spares_the_tokens_after_it():
    found, _ = told("bytes", "打开帮助菜单。", stop=("开",))
    assert len(found.tokens) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_no_piece_ends_within_a_character(kind):
    _, pieces = told(kind, "打龘😀开 Help 👨‍👩‍👧 菜𠮷单")
    assert "".join(pieces) == "打龘😀开 Help 👨‍👩‍👧 菜𠮷单"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_the_limit_leaves_an_unfinished_character_out():
    found, pieces = told("bytes", "打开", max_tokens=5)
    assert (found.text, len(found.tokens), found.finish_reason) == ("打", 5, "length")
    assert "".join(pieces) == "打"


def test_stop_ids_end_a_text_and_are_no_part_of_it():
    words = tokenizer("bpe")
    ids = [*words.encode("打开"), words.unk_id, *words.encode("菜单")]
    script = Script(ids, n_prompt=1, vocab_size=words.vocab_size, eos_id=words.eos_id)
    for beam in (1, 2):
        (found,) = generate(script, words, [""], settings=settings(beam=beam, max_tokens=40), stop_ids=[words.unk_id])
        assert (found.text, found.finish_reason) == ("打开", "stop")
        assert len(found.log_probs) == len(found.tokens) + 1
    pieces = generate_stream(script, words, "", settings=settings(max_tokens=40), stop_ids=[words.unk_id])
    assert "".join(pieces) == "打开"


def test_drawn_texts_depend_on_their_seed_alone():
    writer, words = model("decoder"), tokenizer("bpe")
    asked = settings(temperature=1.0, n_best=3)
    first, again, other = (
        generate(writer, words, ["打开"] * 2, settings=asked.model_copy(update={"seed": seed})) for seed in (1, 1, 2)
    )
    assert first == again
    assert first[1].tokens == other[0].tokens
    drawn = {one.tokens for found in (*first, *other) for one in (found, *found.alternatives)}
    assert len(drawn) > 6
    long = generate(writer, words, ["打开"], settings=asked.model_copy(update={"seed": 1, "max_tokens": 40}))
    assert long[0].tokens[: len(first[0].tokens)] == first[0].tokens


def test_a_text_ends_where_the_positions_do():
    writer, words = model("decoder", "learned embedding-norm gelu"), tokenizer("bpe")
    prompt = [words.bos_id, *[5] * 59]
    (found,) = generate(writer, words, [prompt], settings=settings(max_tokens=40, temperature=3.0))
    assert (len(found.tokens), found.finish_reason) == (64 - 60 + 1, "length")
    (last,) = generate(writer, words, [[5] * 64], settings=settings(max_tokens=40, temperature=3.0))
    assert len(last.log_probs) == 1


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_a_prompt_that_does_not_fit_is_refused_at_once(family):
    words = tokenizer("bpe")
    with pytest.raises(UserError, match=r"prompt 2: has \d+ tokens\nat most 64"):
        generate(model(family), words, ["打开", "打" * 80])
    with pytest.raises(UserError, match="at most 64"):
        generate_stream(model(family), words, "打" * 80)


def test_models_that_cannot_write_are_refused_in_words():
    with pytest.raises(UserError, match="does not write"):
        generate(model("encoder"), tokenizer("bpe"), ["打开"])
    with pytest.raises(UserError, match="is empty"):
        generate(model("decoder"), tokenizer("bpe"), [[]])


def test_an_empty_prompt_needs_a_bos():
    special = SpecialTokens(bos=None)
    words = Tokenizer.train(TEXTS, TokenizerSettings(kind="bytes"), special)
    writer = build("decoder", "post-norm sinusoidal", vocab_size=words.vocab_size, bos_id=None, eos_id=words.eos_id)
    with pytest.raises(UserError, match="no BOS"):
        generate(writer, words, [""])
    assert generate(writer, words, ["a"], settings=settings())[0].n_prompt == 1


def test_the_model_is_left_as_it_was():
    writer = model("decoder")
    writer.train()
    try:
        generate(writer, tokenizer("bpe"), ["打开"], settings=settings())
        stream = generate_stream(writer, tokenizer("bpe"), "打开", settings=settings())
        next(stream)
        assert not torch.is_inference_mode_enabled()
        stream.close()
        assert writer.training
    finally:
        writer.eval()


def test_nothing_is_written_for_no_prompts():
    for options in ({}, {"beam": 2}, {"temperature": 1.0}):
        assert generate(model("decoder"), tokenizer("bpe"), [], settings=settings(**options)) == []
