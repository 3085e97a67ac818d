"""`ciyuan.load`: the verbs of the command line in Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ciyuan
from ciyuan.api import Model
from ciyuan.errors import ModelFolderError, RecipeError, UserError
from ciyuan.interop import save_model_folder
from ciyuan.model import ModelConfig, Transformer, initialise
from ciyuan.text import Tokenizer, TokenizerSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, saved as a run saves it."""
    tokenizer = Tokenizer.train(
        ["red dog sees cat", "红狗看见猫"] * 3, TokenizerSettings(kind="characters", vocab_size=400)
    )
    config = ModelConfig(
        family="encoder-decoder", vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, d_ff=32, sinusoid="halves",
        embedding_scale=4.0, head_bias=True, max_positions=64, pad_id=tokenizer.pad_id, bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, scheme="xavier", seed=1)
    path = tmp_path_factory.mktemp("model")
    save_model_folder(
        path, model, tokenizer, {"task": "translate", "source": "en", "target": "zh", "max_length": 40}, "# card"
    )
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    return ciyuan.load(folder)  # type: ignore[return-value]


def test_importing_ciyuan_imports_nothing_heavy() -> None:
    code = "import sys, ciyuan; print([name for name in ('torch', 'numpy', 'pydantic', 'tokenizers') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = ciyuan.lode  # type: ignore[attr-defined]


def test_a_text_gives_a_text_and_a_list_a_list(model: Model) -> None:
    one = model.translate("red dog", beam=1, max_length=8)
    assert isinstance(one, str)
    assert model.translate(["red dog", "", "cat"], beam=1, max_length=8)[:2] == [one, ""]
    assert model.translate([]) == []


def test_translations_say_what_is_known_of_them(model: Model) -> None:
    found = model.translations(["red dog " * 40], beam=2, max_length=6)[0]
    assert found.truncated
    assert "split" in found.flags
    assert found.score < 0


def test_logits_are_those_of_the_model(model: Model) -> None:
    source, target = torch.tensor([[5, 6, 7, 2], [8, 2, 0, 0]]), torch.tensor([[1, 9], [1, 10]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    both = model.logits(source, attention_mask=mask, decoder_input_ids=target)
    assert both.shape == (2, 2, model.config.vocab_size)
    alone = model.logits([[8, 2]], decoder_input_ids=[[1, 10]])
    torch.testing.assert_close(both[1:], alone)


def test_ids_that_make_no_batch_are_refused(model: Model) -> None:
    with pytest.raises(UserError, match="decoder_input_ids"):
        model.logits([[5, 2]])
    with pytest.raises(UserError, match=r"\(B, T\)"):
        model.logits([5, 2], decoder_input_ids=[[1]])  # type: ignore[list-item]
    with pytest.raises(UserError, match="input_ids hold 1000000"):
        model.logits([[10**6, 2]], decoder_input_ids=[[1]])
    with pytest.raises(UserError, match="not rows of equally many"):
        model.logits([[5, 2], [5]], decoder_input_ids=[[1]])


def test_options_that_do_not_exist_are_refused(model: Model) -> None:
    with pytest.raises(RecipeError, match="translate: beems is not an option; did you mean beam"):
        model.translate("cat", beems=3)
    with pytest.raises(RecipeError, match="at least 1"):
        model.translate("cat", beam=0)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError):
        ciyuan.load(tmp_path)
    with pytest.raises(ModelFolderError):
        ciyuan.load(tmp_path / "none")


def test_a_model_of_another_task_does_not_translate(model: Model) -> None:
    other = Model(model.transformer, model.tokenizer, {"task": "classify"})
    with pytest.raises(ModelFolderError, match="does not translate"):
        other.translate("cat")


def test_the_tokenizer_and_the_configuration_are_at_hand(model: Model) -> None:
    assert model.tokenizer.decode(model.tokenizer.encode("red 狗")) == "red 狗"
    assert model.config.d_model == 16


@pytest.mark.parametrize(
    "info", [{"source": 3}, {"target": ["zh"]}, {"max_length": "9"}, {"max_length": 0}, {"max_length": True}]
)
def test_what_ciyuan_json_says_is_not_trusted(model: Model, info: dict[str, object]) -> None:
    with pytest.raises(ModelFolderError, match=next(iter(info))):
        Model(model.transformer, model.tokenizer, info).translate("cat")
