"""Folders of our encoders and decoders, under every head, opened by transformers as a user would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ciyuan.interop import family_of, load_model_folder, save_model_folder, with_head
from ciyuan.model import Transformer
from ciyuan.text import Tokenizer
from tests.interop.folders import DECODERS, ENCODERS, TEXT, config, model, tokenizer_for
from tests.parity.reference import our_greedy, transformers
from tests.parity.stacks import assert_same, opened, ours_of, padded, theirs_of

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend

LABELS = ["刑法", "民法", "other"]
AUTO = {
    "language-model": {"encoder": "AutoModelForMaskedLM", "decoder": "AutoModelForCausalLM"},
    "classification": {
        "encoder": "AutoModelForSequenceClassification",
        "decoder": "AutoModelForSequenceClassification",
    },
    "span": {"encoder": "AutoModelForQuestionAnswering"},
    "none": {"encoder": "AutoModel", "decoder": "AutoModel"},
}
CASES = [
    *((preset, head, False) for preset in ENCODERS for head in ("language-model", "classification", "span", "none")),
    ("bert-2018", "language-model", True),
    *((preset, head, False) for preset in DECODERS for head in ("language-model", "classification", "none")),
]

Opened = tuple[Transformer, Tokenizer, Any, Path]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: " ".join(map(str, case)))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A model of ours, and what transformers makes of its folder by the class that one would ask for."""
    preset, head, follows = request.param
    folder, tokens = tmp_path_factory.mktemp("ours"), tokenizer_for(preset)
    n_labels = 3 if head == "classification" else 0
    wanted = with_head(config(preset, tokens), head, n_labels=n_labels, next_sentence=follows)
    ours = model(wanted)
    info = {"labels": LABELS, "multi_label": True} if head == "classification" else {}
    save_model_folder(folder, ours, tokens, info, "# A card\n")
    name = "AutoModelForPreTraining" if follows else AUTO[head][wanted.family]
    return ours, tokens, opened(folder, name), folder


def test_the_class_is_the_one_that_config_names(both: Opened) -> None:
    ours, _, theirs, _ = both
    assert type(theirs).__name__ == family_of(ours.config).class_of(ours.config)


def test_answers_agree(both: Opened) -> None:
    ours, tokens, theirs, _ = both
    batch = padded(tokens.pad_id, vocab_size=tokens.vocab_size, n_types=ours.config.n_token_types)
    assert_same(ours_of(ours, *batch), theirs_of(theirs, *batch))


def test_our_own_reading_of_the_folder_is_the_model_bit_for_bit(both: Opened) -> None:
    ours, _, _, folder = both
    again = load_model_folder(folder).model
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in again.state_dict().items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in ours.state_dict().items()
    }
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_what_transformers_saves_again_is_what_we_wrote(both: Opened, tmp_path: Path) -> None:
    _, _, theirs, folder = both
    theirs.save_pretrained(tmp_path)
    ours, again = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert sorted(ours) == sorted(again)
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.items())
    wanted = json.loads((folder / "config.json").read_text())
    found = json.loads((tmp_path / "config.json").read_text())
    assert {name: found[name] for name in wanted if name in found} == {
        name: value for name, value in wanted.items() if name in found
    }
    if "id2label" in wanted:
        assert theirs.config.id2label == dict(enumerate(LABELS))
        assert theirs.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("preset", ENCODERS)
def test_an_encoders_ids_and_token_types_agree(preset: str, tmp_path: Path) -> None:
    tokens = tokenizer_for(preset)
    save_model_folder(tmp_path, model(config(preset, tokens)), tokens, {}, "")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    first, second = TEXT[0], TEXT[3]
    a, b = tokens.encode(first), tokens.encode(second)
    head, tail = tokens.cls_id, tokens.sep_id
    assert theirs(first).input_ids == [head, *a, tail]
    pair = theirs(first, second)
    assert pair.input_ids == [head, *a, tail, *b, tail]
    if preset == "bert-2018":
        assert pair.token_type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    else:
        assert "token_type_ids" not in pair
    assert (theirs.pad_token_id, theirs.mask_token_id) == (tokens.pad_id, tokens.mask_id)
    assert theirs.model_max_length == 512


@pytest.mark.parametrize("preset", DECODERS)
def test_a_decoders_greedy_text_agrees_with_the_folders_own_settings(preset: str, tmp_path: Path) -> None:
    """Prompts of several lengths in one batch, which transformers pads at the left."""
    tokens = tokenizer_for(preset)
    ours = model(config(preset, tokens))
    save_model_folder(tmp_path, ours, tokens, {}, "")
    theirs = opened(tmp_path, "AutoModelForCausalLM")
    rows = [[tokens.bos_id, *tokens.encode(text)] for text in TEXT]
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path)
    batch = reader.pad({"input_ids": rows}, return_tensors="pt")
    assert int(batch.attention_mask[:, -1].sum()) == len(rows)
    written = theirs.generate(**batch, max_new_tokens=12)[:, batch.input_ids.shape[1] :]
    for row, output in zip(rows, written.tolist(), strict=True):
        wanted = our_greedy(ours, row, 12)
        found = output[: output.index(tokens.eos_id)] if tokens.eos_id in output else output
        assert found == wanted


def test_a_folder_whose_config_names_no_pad_has_the_tokenisers(tmp_path: Path) -> None:
    tokens = tokenizer_for("modern-decoder")
    save_model_folder(tmp_path, model(config("modern-decoder", tokens)), tokens, {}, "")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token_id": None}))
    assert load_model_folder(tmp_path).model.config.pad_id == tokens.pad_id
