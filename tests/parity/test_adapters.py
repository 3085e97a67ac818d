"""Our adapters, loaded by peft beside their base, and peft's own, loaded by us: the same logits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.interop import Loaded, load_adapter, load_model_folder, save_adapter, save_model_folder, with_head
from ciyuan.model import Transformer
from tests.interop.folders import PRESETS, config, model, tokenizer_for
from tests.interop.test_adapters import learnt_beside
from tests.parity.ids import our_logits, padded_batch
from tests.parity.reference import their_logits, transformers
from tests.parity.stacks import ours_of, padded, theirs_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers and peft, which are not ours to mend

TARGETS = {
    "modern-decoder": ["q_proj", "down_proj"], "gpt2-2019": ["c_attn", "c_proj"], "bert-2018": ["query", "output.dense"],
    "modern-encoder": ["Wqkv", "Wi"], "vaswani-2017": ["q_proj", "fc1"], "m2m100-2020": ["v_proj", "out_proj"],
    "modern-seq2seq": ["q", "wo"],
}  # fmt: skip
"""What peft calls some layers of each."""


def base_of(folder: Path, preset: str) -> Loaded:
    tokens = tokenizer_for(preset)
    save_model_folder(folder, model(config(preset, tokens)), tokens, {}, "# A card\n")
    return load_model_folder(folder)


def opened(folder: Path, base: Loaded, head: str = "language-model") -> Any:
    of = base.model.config
    name = {"decoder": "CausalLM", "encoder": "PreTraining" if of.next_sentence else "MaskedLM"}.get(
        of.family, "Seq2SeqLM"
    )
    name = {"classification": "SequenceClassification", "span": "QuestionAnswering"}.get(head, name)
    labels = {"num_labels": 3} if head == "classification" else {}
    return getattr(transformers, f"AutoModelFor{name}").from_pretrained(folder, **labels).eval()


def compare(ours: Transformer, theirs: Any) -> None:
    """To a hundredth of a percent: x A B, x (B A) and, in a fused matrix, sums over zeros as well are rounded differently."""
    pad, vocab_size = ours.config.pad_id, ours.config.vocab_size
    if ours.config.family == "encoder-decoder":
        ids = padded_batch(pad, vocab_size=vocab_size)
        found, wanted = {"logits": our_logits(ours, *ids)}, {"logits": their_logits(theirs, *ids)}
    else:
        tokens, mask, _ = padded(pad, vocab_size=vocab_size)
        found, wanted = ours_of(ours, tokens, mask, None), theirs_of(theirs, tokens, mask, None)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4 * float(value.std()))


@pytest.mark.parametrize("targets", [("q", "v"), "all"])
@pytest.mark.parametrize("preset", PRESETS)
def test_peft_loads_ours(preset: str, targets: object, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", preset)
    learnt = learnt_beside(base, targets=targets)
    save_adapter(tmp_path / "a", learnt, {}, base=str(tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(opened(tmp_path / "base", base), tmp_path / "a").eval()
    compare(learnt, theirs)
    compare(learnt, theirs.merge_and_unload())


@pytest.mark.parametrize(
    ("preset", "head"),
    [("bert-2018", "classification"), ("bert-2018", "span"), ("modern-encoder", "classification"), ("gpt2-2019", "classification"),
     ("modern-decoder", "classification")],
)  # fmt: skip
def test_peft_loads_a_new_head_with_it(preset: str, head: str, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", preset)
    learnt = learnt_beside(base, with_head(base.model.config, head, n_labels=3 * (head == "classification")))
    save_adapter(tmp_path / "a", learnt, {}, base=str(tmp_path / "base"))
    compare(learnt, peft.PeftModel.from_pretrained(opened(tmp_path / "base", base, head), tmp_path / "a").eval())


@pytest.mark.parametrize("preset", PRESETS)
def test_we_load_what_peft_saves(preset: str, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", preset)
    wanted = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS[preset], use_rslora=True, fan_in_fan_out=preset == "gpt2-2019",
        rank_pattern={TARGETS[preset][0]: 2}, alpha_pattern={TARGETS[preset][0]: 3},
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = peft.get_peft_model(opened(tmp_path / "base", base), wanted).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path / "a")
    compare(load_adapter(tmp_path / "a", base).model, theirs)
