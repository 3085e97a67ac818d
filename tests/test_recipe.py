"""Recipes: what is built in, what the command line lays over it, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciyuan.config import build, parse_sheet, schema, write_settings
from ciyuan.errors import RecipeError
from ciyuan.recipe import builtin
from ciyuan.recipe.places import cache_folder
from ciyuan.recipe.settings import Recipe, read_recipe


def test_every_built_in_recipe_is_valid_and_described() -> None:
    assert builtin.names() == ["answer", "causal-lm", "chat", "classify", "denoise", "masked-lm", "translate"]
    for name in builtin.names():
        recipe = read_recipe(name)
        assert recipe.task == name
        assert len(builtin.description(name)) > 20


def test_the_built_in_recipe_says_the_defaults() -> None:
    """What stands in it is what holds when it is left out, as its first lines promise, but for the vocabulary's size."""
    silent = build(Recipe, parse_sheet("task: translate", "x"))
    said = read_recipe("translate")
    assert said.tokenizer.vocab_size == "auto"
    assert said.model_copy(update={"tokenizer": silent.tokenizer}) == silent
    assert said.tokenizer.model_copy(update={"vocab_size": silent.tokenizer.vocab_size}) == silent.tokenizer


@pytest.mark.parametrize("name", builtin.names())
def test_every_commented_option_of_the_built_in_recipe_exists(name: str) -> None:
    text = builtin.text(name)
    lines = [line.replace("# ", "", 1) if line.startswith("  # ") else line for line in text.split("\n")]
    build(Recipe, parse_sheet("\n".join(lines), "uncommented"))


def read(tmp_path: Path, text: str, **options: Any) -> Recipe:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return read_recipe(str(file), **options)


def test_what_a_file_does_not_say_is_as_in_the_built_in_recipe_of_its_task(tmp_path: Path) -> None:
    mine = read(tmp_path, "task: causal-lm\nmodel: {n_layers: 2}\n")
    assert (mine.model.preset, mine.model.size, mine.model.n_layers) == ("modern-decoder", "auto", 2)
    assert mine.tokenizer.kind == "bpe"
    assert mine.training.batch_tokens == "auto"


def test_a_preset_a_tokeniser_or_a_limit_that_is_named_is_not_mixed_with_the_built_in_recipe(tmp_path: Path) -> None:
    mine = read(tmp_path, "task: causal-lm\nmodel: {preset: gpt2-2019}\ntraining: {steps: 5}\ntokenizer: some/folder\n")
    assert (mine.model.preset, mine.model.d_model) == ("gpt2-2019", None)
    assert (mine.training.steps, mine.training.minutes) == (5, None)
    assert (mine.tokenizer.path, mine.tokenizer.kind) == ("some/folder", Recipe(task="causal-lm").tokenizer.kind)
    assert read_recipe("causal-lm", overrides=["training.tokens=99"]).training.minutes is None


def test_a_model_to_start_from_brings_its_own_sizes(tmp_path: Path) -> None:
    started = read_recipe("classify", init=True)
    assert (started.model.preset, started.model.d_model) == (None, None)
    again = write_settings(started)
    assert read(tmp_path, again, init=True) == started
    with pytest.raises(RecipeError, match="no model to start from"):
        read(tmp_path, again)
    assert read_recipe("classify", init=True, overrides=["model.dropout=0.2"]).model.dropout == 0.2
    assert read(tmp_path, "task: classify\nmodel: {d_model: 64}\n", init=True).model.d_model == 64


@pytest.mark.parametrize(
    ("task", "preset"), [("translate", "gpt2-2019"), ("masked-lm", "modern-decoder"), ("causal-lm", "bert-2018")]
)
def test_a_family_that_cannot_do_the_task_is_refused_with_its_place(tmp_path: Path, task: str, preset: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, f"task: {task}\nmodel:\n  preset: {preset}\n")
    assert "mine.yaml:3" in str(caught.value)
    assert task in str(caught.value)


def test_the_next_sentence_needs_a_preset_with_its_head() -> None:
    with pytest.raises(RecipeError, match=r"(?s)does not have.*bert-2018"):
        read_recipe("masked-lm", overrides=["objective.next_sentence=true"])
    assert read_recipe("masked-lm", overrides=["objective.next_sentence=true", "model.preset=bert-2018"]).model.preset


def test_the_recipe_of_the_design_is_read(tmp_path: Path) -> None:
    file = tmp_path / "whole.yaml"
    file.write_text(
        """\
task: translate
data:
  train: [pairs.tsv]
  dev: 500
  source: en
  target: zh
tokenizer: {kind: unigram, vocab_size: 8000}
model: {preset: modern-seq2seq, d_model: 256, n_layers: 6, n_decoder_layers: 2}
training: {minutes: 20, batch_tokens: 4096, optimizer: adamw, lr: auto}
"""
    )
    recipe = read_recipe(str(file))
    assert recipe.data.train == ("pairs.tsv",)
    assert recipe.model.n_decoder_layers == 2
    assert recipe.training.minutes == 20


SCRIPTED = {
    "data": ("train", "dev", "source", "target", "group"),
    "tokenizer": ("kind", "vocab_size"),
    "model": ("preset", "d_model", "n_layers", "n_decoder_layers", "n_heads", "n_kv_heads", "d_ff", "dropout"),
    "training": (
        "steps", "minutes", "tokens", "batch_tokens", "accumulate", "optimizer", "lr", "schedule", "seed", "checkpoint_every",
        "evaluate_every", "precision", "threads",
    ),
}  # fmt: skip


def test_names_that_scripts_rely_on_stay() -> None:
    for section, names in SCRIPTED.items():
        options = Recipe.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
        assert [name for name in names if name not in options] == []


def test_the_command_line_comes_last() -> None:
    recipe = read_recipe("translate", data=["a.en", "a.zh"], dev="7", minutes=0.5, overrides=["training.seed=3"])
    assert recipe.data.train == ("a.en", "a.zh")
    assert recipe.data.dev == 7
    assert recipe.training.minutes == 0.5
    assert recipe.training.seed == 3
    assert read_recipe("translate", dev="dev.tsv").data.dev == "dev.tsv"


def test_a_tokenizer_may_be_just_a_path() -> None:
    assert read_recipe("translate", overrides=["tokenizer=runs/other"]).tokenizer.path == "runs/other"


def test_what_does_not_fit_together_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("task: translate\nmodel:\n  preset: modern-seq2seq\n  d_model: 250\n")
    with pytest.raises(RecipeError, match=rf"^{file}:4: model.d_model 250 is not a multiple of model.n_heads"):
        read_recipe(str(file))
    file.write_text("task: translate\nmodel:\n  preset: vaswani\n")
    with pytest.raises(RecipeError, match=rf"^{file}:3: model.preset vaswani is not known"):
        read_recipe(str(file))
    file.write_text("task: translate\nmodel:\n  preset: bert-2018\n")
    with pytest.raises(
        RecipeError, match=r":3: model.preset bert-2018 is an encoder, which is not for the task translate"
    ):
        read_recipe(str(file))


def test_the_resolved_recipe_is_read_back_equal(tmp_path: Path) -> None:
    recipe = read_recipe(
        "translate", data=["a.tsv"], overrides=["data.dev=null", "training.clip=null", "data.source=no"]
    )
    (tmp_path / "recipe.yaml").write_text(write_settings(recipe), encoding="utf-8")
    assert read_recipe(str(tmp_path / "recipe.yaml")) == recipe


def test_the_schema_describes_every_option() -> None:
    found = schema(Recipe)
    bare = [
        f"{kind}.{name}"
        for kind in ("DataSettings", "TokenizerSettings", "TrainingSettings")
        for name, option in found["$defs"][kind]["properties"].items()
        if not option.get("description")
    ]
    assert bare == []


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIYUAN_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("CIYUAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ciyuan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ciyuan"


NAMES = [f"{section}.{name}" for section, kind in (
    ("data", Recipe.model_fields["data"]), ("tokenizer", Recipe.model_fields["tokenizer"]),
    ("model", Recipe.model_fields["model"]), ("training", Recipe.model_fields["training"]),
) for name in kind.annotation.model_fields]  # type: ignore[union-attr]  # fmt: skip
VALUES = st.one_of(
    st.integers(-2, 10**20).map(str),
    st.floats().map(str),
    st.sampled_from(["auto", "null", "true", "[]", "{}", "[a, b]", "adamw", "muon", "rotary", "vaswani-2017", "bytes", "cosine"]),
    st.text(max_size=6),
)  # fmt: skip


def read_or_refused(overrides: list[str]) -> str | None:
    """Anything but a RecipeError of at most three lines is a failure."""
    try:
        read_recipe("translate", overrides=overrides)
    except RecipeError as error:
        message = str(error)
    else:
        return None
    assert 1 <= len(message.splitlines()) <= 3, message
    return message


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), min_size=1, max_size=4))
def test_any_settings_are_accepted_or_refused_by_name(pairs: list[tuple[str, str]]) -> None:
    message = read_or_refused([f"{name}={value}" for name, value in pairs])
    if message is not None:
        section_or_key = [name.split(".")[-1] for name, _ in pairs]
        assert any(name in message for name in section_or_key) or "--set" in message, message


@given(st.sampled_from(NAMES), st.integers(0, 30), st.characters(codec="ascii", categories=["Ll"]))
def test_a_mistyped_name_is_refused_with_a_guess(name: str, place: int, letter: str) -> None:
    section, option = name.split(".")
    place = place % (len(option) + 1)
    mistyped = option[:place] + letter + option[place:]
    if mistyped in Recipe.model_fields[section].annotation.model_fields:  # type: ignore[union-attr]
        return
    message = read_or_refused([f"{section}.{mistyped}=1"])
    assert message is not None
    assert "did you mean" in message or f"options of {section}" in message
