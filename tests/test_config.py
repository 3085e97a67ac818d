"""Settings are read to the letter, and what is wrong with them is said with its place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from ciyuan.config import Settings, build, override, parse_sheet, read_settings, schema, write_settings
from ciyuan.errors import RecipeError


class Learning(Settings):
    lr: float | Literal["auto"] = "auto"
    steps: int | None = Field(default=None, ge=1, le=1000)
    optimizer: Literal["adamw", "muon"] = "adamw"
    clip: float | None = 1.0
    nesterov: bool = False


class Texts(Settings):
    train: tuple[str, ...] = ()
    dev: str | int | None = 500
    source: str | None = None


class Whole(Settings):
    task: str
    data: Texts = Texts()
    training: Learning = Learning()


def read(text: str, *overrides: str) -> Whole:
    return build(Whole, override(parse_sheet(text, "train.yaml"), overrides))


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text, *overrides)
    message = str(caught.value)
    assert 1 <= len(message.splitlines()) <= 3
    return message


def test_a_mistyped_option_is_named_with_line_and_guess() -> None:
    assert (
        refusal("task: x\n\ntraining:\n  steps: 3\n  lr_rate: 1\n")
        == "train.yaml:5: training.lr_rate is not an option; did you mean training.lr?"
    )


def test_a_mistyped_override_is_named_as_it_was_typed() -> None:
    assert (
        refusal("task: x", "training.lr_rate=3")
        == "--set training.lr_rate=3: training.lr_rate is not an option; did you mean training.lr?"
    )


def test_an_option_in_the_wrong_section_is_found_in_the_right_one() -> None:
    assert refusal("task: x\nsteps: 3") == "train.yaml:2: steps is not an option; did you mean training.steps?"
    assert refusal("task: x\ndata: {optimiser: muon}").endswith("did you mean training.optimizer?")


def test_an_option_like_no_other_is_answered_with_all_there_are() -> None:
    assert "options of data: train, dev, source" in refusal("task: x\ndata:\n  qqqq: 1")


def test_a_mistyped_choice_gets_a_guess() -> None:
    message = refusal("task: x\ntraining: {optimizer: adam}")
    assert "'adamw' or 'muon'" in message
    assert message.endswith("did you mean adamw?")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: x\ntraining:\n  steps: '3'", 'train.yaml:3: training.steps is "3"\nallowed: a whole number'),
        ("task: x\ntraining:\n  steps: 3.5", "train.yaml:3: training.steps is 3.5\nallowed: a whole number"),
        ("task: x\ntraining:\n  steps: 0", "train.yaml:3: training.steps is 0\nallowed: at least 1"),
        ("task: x\ntraining:\n  steps: 1001", "allowed: at most 1000"),
        ("task: x\ntraining:\n  lr: fast", "allowed: a number or 'auto'"),
        ("task: x\ntraining:\n  lr: true", "training.lr is true"),
        ("task: x\ntraining:\n  nesterov: yes", 'training.nesterov is "yes"\nallowed: true or false'),
        ("task: x\ntraining:\n  nesterov: 1", "allowed: true or false"),
        ("task: x\ntraining:\n  clip: .nan", "allowed: a finite number"),
        ("task: x\ntraining: fast", 'train.yaml:2: training is "fast"\nallowed: options, each `key: value`'),
        ("task: x\ndata: {train: a.tsv}", "allowed: a list"),
        ("task: x\ndata: {train: [1]}", "data.train.0 is 1"),
        ("task: 3", "train.yaml:1: task is 3\nallowed: text (in quotes where it looks like a number)"),
        ("data: {}", "task is missing"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(text: str, said: str) -> None:
    assert said in refusal(text)


def test_of_several_faults_the_first_is_told_and_the_others_counted() -> None:
    message = refusal("task: x\ntraining:\n  steps: 0\n  lr: no\n  colour: red\n")
    assert message.startswith("train.yaml:3: training.steps is 0 (and 2 more to mend)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no settings in it"),
        ("# nothing but a comment\n", "no settings in it"),
        ("- a\n- b\n", "settings are written `key: value`"),
        ("a: b: c", "train.yaml:1: not YAML"),
        ("a:\n\t- b", "train.yaml:2: not YAML"),
        ("task: x\ntask: y", "train.yaml:2: task is said twice, before in line 1"),
        ("a: &x 1\nb: *x", "anchors (&name) and aliases (*name) are not read here"),
        ("a: *x", "aliases"),
        ("task: !!python/object/apply:os.system [ls]", "a tag"),
        ("task: x\n---\ntask: y", "a second document"),
        ("? [a]\n: b", "a key is a word"),
        ("[" * 100, "nested more than"),
        ('task: "\\ud800"', "U+D800"),
        ('task: "\\0"', "U+0000"),
        ('task: "\\U99999999"', "names no character"),
        ("task: \x01", "train.yaml:1: a character that YAML does not allow (#x0001)"),
        ("<<: {a: 1}\n", "<< is not an option"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_billion_laughs_are_refused_at_the_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert refusal(bomb).startswith("train.yaml:1: anchors")


def test_norwegian_is_a_language_and_1e_3_a_number() -> None:
    settings = read("task: on\ndata: {source: no, train: [2024-01-01, 'yes']}\ntraining: {lr: 1e-3, steps: 0_100}")
    assert settings.task == "on"
    assert settings.data.source == "no"
    assert settings.data.train == ("2024-01-01", "yes")
    assert settings.training.lr == 0.001
    assert settings.training.steps == 100


def test_a_section_named_and_left_empty_has_its_defaults() -> None:
    assert read("task: x\ntraining:\n  # steps: 3\n").training == Learning()


def test_overrides_come_last_and_in_order() -> None:
    settings = read(
        "task: x\ntraining: {steps: 1}", "training.steps=2", "training.steps=3", "data.train=[a, b]", "data.dev=null"
    )
    assert settings.training.steps == 3
    assert settings.data.train == ("a", "b")
    assert settings.data.dev is None


@pytest.mark.parametrize("text", ["training.steps", "=3", "training.=3", "training..steps=3", ".=3"])
def test_an_override_that_is_not_key_and_value_is_refused(text: str) -> None:
    assert "not of the form key=value" in refusal("task: x", text)


def test_an_override_does_not_lead_through_a_value() -> None:
    assert "data is 3, not a section" in refusal("task: x\ndata: 3", "data.train=[a]")


def test_files_that_cannot_be_settings_are_refused(tmp_path: Path) -> None:
    missing, folder, wide, latin = (tmp_path / name for name in ("missing", "folder", "wide", "latin"))
    folder.mkdir()
    wide.write_bytes(b"x" * 300_000)
    latin.write_bytes("task: x\n# gr\xfcn".encode("latin-1"))
    for path, said in [
        (missing, "cannot be read: No such file"),
        (folder, "a folder"),
        (wide, "larger than"),
        (latin, f"{latin}:2: byte 12 (0xfc) is not UTF-8"),
        (tmp_path / "a\0b", "cannot be read"),
    ]:
        with pytest.raises(RecipeError) as caught:
            read_settings(Whole, path)
        assert said in str(caught.value)


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbftask: x\n")
    assert read_settings(Whole, tmp_path / "a.yaml").task == "x"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read("task: x").task = "y"  # type: ignore[misc]


def test_the_schema_names_every_option() -> None:
    found = schema(Whole)
    assert found["additionalProperties"] is False
    assert set(found["$defs"]["Learning"]["properties"]) == set(Learning.model_fields)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
data_sections = st.builds(
    Texts,
    train=st.lists(texts, max_size=3).map(tuple),
    dev=st.none() | texts | st.integers(),
    source=st.none() | texts,
)
learning_sections = st.builds(
    Learning,
    lr=st.just("auto") | finite,
    steps=st.none() | st.integers(1, 1000),
    clip=st.none() | finite,
    nesterov=st.booleans(),
)


@given(st.builds(Whole, task=texts, data=data_sections, training=learning_sections))
def test_what_is_written_is_read_back_equal(settings: Whole) -> None:
    assert build(Whole, parse_sheet(write_settings(settings), "again.yaml")) == settings


def read_or_refused(text: str, *overrides: str) -> Whole | None:
    """Anything but a RecipeError of at most three lines is a failure."""
    try:
        return read(text, *overrides)
    except RecipeError as error:
        message = str(error)
    assert 1 <= len(message.splitlines()) <= 3
    return None


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(text)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
trees = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=6), below, max_size=3)
)
keys = st.sampled_from(["task", "data", "training", "train", "dev", "lr", "steps", "taks", "", "0", "clip"])


@given(st.dictionaries(keys, trees | st.dictionaries(keys, trees, max_size=4), max_size=5))
def test_any_tree_is_read_or_refused(tree: dict[str, Any]) -> None:
    read_or_refused(yaml.safe_dump(tree, allow_unicode=True))


paths = st.sampled_from(["training.lr", "training", "data.dev", "task", "training.lr.x", "nope.x"])


@given(st.lists(st.tuples(paths, st.text(max_size=10)), max_size=4))
def test_any_override_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    settings = read_or_refused("task: x", *(f"{key}={value}" for key, value in pairs))
    assert settings is None or settings.training.lr == "auto" or math.isfinite(settings.training.lr)
