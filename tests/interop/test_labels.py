"""A classifier's labels go into config.json and come back; a head is chosen from what a family's classes have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.errors import ModelFolderError
from ciyuan.interop import family_of, load_model_folder, save_model_folder, with_head
from ciyuan.interop.labels import read_labels, write_labels
from ciyuan.interop.settings import TheirSettings
from tests.interop.folders import DECODERS, ENCODERS, config, model, tokenizer_for

LABELS = ["刑法", "民法", "other"]


def classifier(folder: Path, preset: str = "bert-2018", **info: Any) -> Path:
    tokens = tokenizer_for(preset)
    made = model(with_head(config(preset, tokens), "classification", n_labels=3))
    save_model_folder(folder, made, tokens, {"task": "classify", "labels": LABELS, **info}, "")
    return folder


def changed(folder: Path, name: str, **changes: object) -> None:
    found = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**found, **changes}))


@pytest.mark.parametrize("preset", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_are_written_for_everybody_and_come_back_without_ciyuan_json(
    preset: str, multi_label: bool, tmp_path: Path
) -> None:
    folder = classifier(tmp_path, preset, multi_label=multi_label)
    written = json.loads((folder / "config.json").read_text())
    assert written["id2label"] == {"0": "刑法", "1": "民法", "2": "other"}
    assert written["label2id"] == {"刑法": 0, "民法": 1, "other": 2}
    assert written["problem_type"] == ("multi_label_classification" if multi_label else "single_label_classification")
    whole = load_model_folder(folder)
    assert (whole.info["labels"], whole.info["multi_label"]) == (LABELS, multi_label)
    (folder / "ciyuan.json").unlink()
    bare = load_model_folder(folder)
    assert bare.info == {"labels": LABELS, "multi_label": multi_label}
    assert bare.model.config.n_labels == 3
    assert all(torch.equal(tensor, bare.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())


def test_labels_that_are_told_otherwise_are_refused(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    changed(folder, "ciyuan.json", labels=["民法", "刑法", "other"])
    with pytest.raises(ModelFolderError, match=r"its labels are not those of config\.json"):
        load_model_folder(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "no name for label 1"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label has a 2 times"),
        ({"id2label": {"0": "a", "1": 7}}, "no name for label 1"),
        ({"id2label": {}}, "no name for label 0"),
        ({"id2label": ["a"]}, "id2label is"),
        ({"id2label": {"0": "a", "1": "b"}}, "config.json implies"),
        ({"num_labels": 4}, "num_labels is 4"),
        ({"problem_type": "regression"}, "problem_type is regression"),
    ],
)
def test_labels_that_do_not_fit_are_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    changed(folder, "config.json", **changes)
    (folder / "ciyuan.json").unlink()
    with pytest.raises(ModelFolderError, match=said) as caught:
        load_model_folder(folder)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "b"], ["a", "b", 3]])
def test_labels_that_are_not_the_classifiers_cannot_be_written(labels: list[str]) -> None:
    with pytest.raises(ModelFolderError, match="for a classifier of 3"):
        write_labels(labels, 3, multi_label=False)


def test_labels_without_names_are_numbered() -> None:
    written = write_labels(None, 2, multi_label=False)
    assert read_labels(TheirSettings(written, None)) == ["LABEL_0", "LABEL_1"]
    assert read_labels(TheirSettings({"num_labels": 3}, None)) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert read_labels(TheirSettings({}, None)) == ["LABEL_0", "LABEL_1"]


@pytest.mark.parametrize(
    ("preset", "head", "named"),
    [
        ("bert-2018", "language-model", "BertForMaskedLM"),
        ("bert-2018", "classification", "BertForSequenceClassification"),
        ("bert-2018", "span", "BertForQuestionAnswering"),
        ("bert-2018", "none", "BertModel"),
        ("modern-encoder", "language-model", "ModernBertForMaskedLM"),
        ("modern-encoder", "classification", "ModernBertForSequenceClassification"),
        ("modern-encoder", "span", "ModernBertForQuestionAnswering"),
        ("modern-encoder", "none", "ModernBertModel"),
        ("gpt2-2019", "classification", "GPT2ForSequenceClassification"),
        ("modern-decoder", "classification", "Qwen3ForSequenceClassification"),
        ("modern-decoder", "language-model", "Qwen3ForCausalLM"),
    ],
)
def test_a_head_is_what_a_class_of_the_family_has(preset: str, head: str, named: str) -> None:
    before = config(preset, tokenizer_for(preset))
    n_labels = 3 if head == "classification" else 0
    after = with_head(before, head, n_labels=n_labels)
    assert family_of(after).class_of(after) == named
    again = with_head(after, "language-model", next_sentence=before.next_sentence)
    assert family_of(again).class_of(again) == family_of(before).class_of(before)


def test_a_head_that_no_class_has_is_refused() -> None:
    decoder = config("gpt2-2019", tokenizer_for("gpt2-2019"))
    with pytest.raises(ModelFolderError, match="no Hugging Face class is a decoder with a span head") as caught:
        with_head(decoder, "span")
    assert "GPT2LMHeadModel" in str(caught.value)
    modern = config("modern-encoder", tokenizer_for("modern-encoder"))
    with pytest.raises(ModelFolderError, match=r"comes nearest, but for model\.pooler = True, model\.next_sentence"):
        with_head(modern, "language-model", next_sentence=True)
