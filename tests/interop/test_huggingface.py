"""Model folders of ours: what is written, what comes back, and what is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ciyuan.errors import DiskError, ModelFolderError
from ciyuan.interop import (
    family_of,
    load_model_folder,
    load_transformer,
    save_model_folder,
    to_hugging_face,
)
from ciyuan.interop.huggingface import writing
from ciyuan.model import PRESETS, ModelConfig, Transformer
from tests.interop.folders import DECODERS, ENCODERS, config, model, saved, tokenizer, tokenizer_for
from tests.interop.folders import PRESETS as ALL
from tests.interop.folders import SEQ2SEQ as SMALL
from tests.parity.ids import our_logits, padded_batch


@pytest.mark.parametrize("preset", SMALL)
def test_a_saved_model_comes_back(preset: str, tmp_path: Path) -> None:
    tokens = tokenizer()
    before = model(config(preset, tokens))
    info = {"task": "translate", "source": "en", "target": "zh", "scores": {"chrF": 21.5}}
    save_model_folder(tmp_path / "model", before, tokens, info, "# A card\n")
    after = load_model_folder(tmp_path / "model")
    batch = padded_batch(tokens.pad_id, vocab_size=tokens.vocab_size)
    wanted = our_logits(before, *batch)
    found = our_logits(after.model, *batch)
    if preset == "modern-seq2seq":  # folded into T5's form, so equal to float32 rounding
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5 * float(wanted.std()))
    else:
        assert torch.equal(found, wanted)
    assert after.tokenizer.fingerprint == tokens.fingerprint
    assert {name: after.info[name] for name in info} == info
    assert not after.model.training
    assert all(parameter.requires_grad for parameter in after.model.parameters())
    assert (tmp_path / "model" / "README.md").read_text() == "# A card\n"


@pytest.mark.parametrize("preset", ALL)
def test_saving_what_was_loaded_writes_the_same(preset: str, tmp_path: Path) -> None:
    first = saved(tmp_path / "first", preset)
    loaded = load_model_folder(first)
    save_model_folder(tmp_path / "second", loaded.model, loaded.tokenizer, loaded.info, "# A card\n")
    for path in sorted(first.iterdir()):
        again = tmp_path / "second" / path.name
        if path.suffix == ".safetensors":  # the library writes the two keys of its metadata in any order
            with safe_open(path, "pt") as mine, safe_open(again, "pt") as theirs:
                assert mine.metadata() == theirs.metadata()
                assert all(torch.equal(mine.get_tensor(key), theirs.get_tensor(key)) for key in mine.keys())  # noqa: SIM118
        else:
            assert path.read_bytes() == again.read_bytes(), path.name


def test_the_folder_holds_these_files_and_no_drafts(tmp_path: Path) -> None:
    assert {path.name for path in saved(tmp_path / "model").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
        "ciyuan.json",
    }  # fmt: skip


def test_generation_settings_are_those_of_our_decoding(tmp_path: Path) -> None:
    settings = json.loads((saved(tmp_path) / "generation_config.json").read_text())
    assert settings["bad_words_ids"] == [[0], [1]]
    assert (settings["decoder_start_token_id"], settings["eos_token_id"], settings["pad_token_id"]) == (1, 2, 0)
    assert settings["num_beams"] == 4
    assert settings["max_length"] == 512


@pytest.mark.parametrize("preset", DECODERS)
def test_decoders_are_greedy_unless_told_otherwise(preset: str, tmp_path: Path) -> None:
    settings = json.loads((saved(tmp_path, preset) / "generation_config.json").read_text())
    assert settings == {
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "bad_words_ids": [[0], [1]], "do_sample": False, "num_beams": 1,
        "max_length": PRESETS[preset]["max_positions"],
    }  # fmt: skip


@pytest.mark.parametrize("preset", ENCODERS)
def test_who_does_not_generate_has_no_settings_for_it(preset: str, tmp_path: Path) -> None:
    assert not (saved(tmp_path, preset) / "generation_config.json").exists()


def test_the_tokenisers_files_say_what_the_model_wants(tmp_path: Path) -> None:
    def said(preset: str) -> dict[str, object]:
        return json.loads((saved(tmp_path / preset, preset) / "tokenizer_config.json").read_text())  # type: ignore[no-any-return]

    assert said("gpt2-2019")["padding_side"] == said("modern-decoder")["padding_side"] == "left"
    assert said("vaswani-2017")["padding_side"] == said("bert-2018")["padding_side"] == "right"
    assert said("bert-2018")["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]
    assert said("modern-encoder")["model_input_names"] == ["input_ids", "attention_mask"]
    assert said("gpt2-2019")["model_max_length"] == 1024


def test_the_weights_say_that_they_are_torchs(tmp_path: Path) -> None:
    with safe_open(saved(tmp_path) / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


@pytest.mark.parametrize("preset", ALL)
def test_saving_and_loading_draw_nothing_from_the_global_generator(preset: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load_model_folder(saved_without_drawing(tmp_path, preset))
    assert torch.equal(torch.rand(3), wanted)


def saved_without_drawing(folder: Path, preset: str) -> Path:
    tokens = tokenizer_for(preset)
    with torch.random.fork_rng(devices=[]):
        made = model(config(preset, tokens))
    save_model_folder(folder, made, tokens, {}, "")
    return folder


def test_a_model_is_saved_as_it_was_left(tmp_path: Path) -> None:
    tokens = tokenizer()
    made = model(config("modern-seq2seq", tokens)).train()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    save_model_folder(tmp_path, made, tokens, {}, "")
    assert made.training
    assert made.config.normalised_embeddings
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


def test_sixteen_bit_weights_are_written_as_they_are_and_read_widened(tmp_path: Path) -> None:
    tokens = tokenizer()
    made = model(config("vaswani-2017", tokens)).bfloat16()
    save_model_folder(tmp_path, made, tokens, {}, "")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    after = load_transformer(tmp_path)
    assert after.embedding.weight.dtype == torch.float32
    assert torch.equal(after.embedding.weight, made.embedding.weight.float())


def test_every_preset_has_its_class() -> None:
    def class_of(preset: str) -> str:
        small = config(preset, tokenizer_for(preset))
        return family_of(small).class_of(small)

    assert {name: class_of(name) for name in ALL} == {
        "vaswani-2017": "MarianMTModel", "m2m100-2020": "M2M100ForConditionalGeneration",
        "modern-seq2seq": "T5ForConditionalGeneration", "bert-2018": "BertForPreTraining",
        "modern-encoder": "ModernBertForMaskedLM", "gpt2-2019": "GPT2LMHeadModel", "modern-decoder": "Qwen3ForCausalLM",
    }  # fmt: skip
    assert set(ALL) == set(PRESETS)


@pytest.mark.parametrize(
    ("preset", "changes", "named"),
    [
        ("vaswani-2017", {"qk_norm": True}, "model.qk_norm = True"),
        ("vaswani-2017", {"window": 8}, "model.window = 8"),
        ("vaswani-2017", {"embedding_scale": 2.0}, "model.embedding_scale = 2.0"),
        ("vaswani-2017", {"head_bias": False}, "model.head_bias = False"),
        ("vaswani-2017", {"tied": False}, "tie_word_embeddings"),
        ("vaswani-2017", {"n_kv_heads": 1}, "model.n_kv_heads = 1"),
        ("vaswani-2017", {"norm_eps": 1e-6}, "model.norm_eps = 1e-06"),
        ("m2m100-2020", {"position_offset": 0}, "model.position_offset = 0"),
        ("m2m100-2020", {"start_id": 0}, "decoder_start_token_id is the PAD token"),
        ("modern-seq2seq", {"tied": True}, "model.normalised_embeddings = True"),
        ("modern-seq2seq", {"n_decoder_heads": 4}, "model.n_decoder_heads = 4"),
        ("modern-seq2seq", {"gated": True, "activation": "gelu"}, "model.activation = gelu"),
        ("modern-seq2seq", {"logit_scale": 0.5}, "model.logit_scale = 0.5"),
        ("bert-2018", {"next_sentence": False}, "model.pooler = True"),
        ("bert-2018", {"embedding_norm": False}, "model.embedding_norm = False"),
        ("bert-2018", {"n_token_types": 0}, "type_vocab_size is 0"),
        ("bert-2018", {"position_offset": 2}, "model.position_offset = 2"),
        ("bert-2018", {"ff_bias": False}, "model.ff_bias = False"),
        ("bert-2018", {"head": "span"}, "model.pooler = True"),
        ("modern-encoder", {"attention_soft_cap": 8.0}, "model.attention_soft_cap = 8.0"),
        ("modern-encoder", {"first_norm": True}, "model.first_norm = True"),
        ("modern-encoder", {"n_kv_heads": 1}, "model.n_kv_heads = 1"),
        ("modern-encoder", {"n_token_types": 2}, "model.n_token_types = 2"),
        ("modern-encoder", {"d_head": 8}, "model.d_head = 8"),
        ("gpt2-2019", {"attention_scale": 0.3}, "model.attention_scale = 0.3"),
        ("gpt2-2019", {"n_kv_heads": 1}, "model.n_kv_heads = 1"),
        ("gpt2-2019", {"head_bias": True}, "model.head_bias = True"),
        (
            "modern-decoder",
            {"window": 8, "windowed_layers": (0,), "window_rope_base": 9.0},
            "model.window_rope_base = 9.0",
        ),
        ("modern-decoder", {"attention_soft_cap": 8.0}, "model.attention_soft_cap = 8.0"),
        ("modern-decoder", {"logit_soft_cap": 8.0}, "model.logit_soft_cap = 8.0"),
        ("modern-decoder", {"norm_offset": 1.0}, "model.norm_offset = 1.0"),
        ("modern-decoder", {"norm_weight": False}, "model.norm_weight = False"),
        ("modern-decoder", {"attention_out_bias": True}, "model.attention_out_bias = True"),
        ("modern-decoder", {"head": "span"}, "model.head = span"),
    ],
)
def test_what_no_family_can_express_is_refused_by_name(preset: str, changes: dict[str, object], named: str) -> None:
    fields = config(preset, tokenizer_for(preset)).model_dump() | changes
    with pytest.raises(ModelFolderError, match=r"no Hugging Face class") as caught:
        family_of(ModelConfig.of(fields))
    assert named in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_nearest_class_is_one_of_the_same_family_of_models() -> None:
    one = {"family": "decoder", "vocab_size": 9, "d_model": 8, "n_heads": 2}
    with pytest.raises(
        ModelFolderError, match=r"GPT2LMHeadModel comes nearest, but for model\.norm_position"
    ) as caught:
        family_of(ModelConfig.of(one))
    assert "Bert" not in str(caught.value)


def test_a_tokeniser_of_another_model_is_refused_when_saving(tmp_path: Path) -> None:
    tokens = tokenizer()
    small = ModelConfig.of(config("vaswani-2017", tokens).model_dump() | {"vocab_size": tokens.vocab_size - 1})
    with pytest.raises(ModelFolderError, match="tokeniser of another model"):
        save_model_folder(tmp_path / "model", Transformer(small), tokens, {}, "")
    assert not (tmp_path / "model").exists()


def test_a_tokeniser_of_another_model_is_refused_when_loading(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    tokenizer(["quite another text"]).save(folder)
    with pytest.raises(ModelFolderError, match="tokeniser of another model"):
        load_model_folder(folder)
    (folder / "ciyuan.json").unlink()  # a plain folder has no fingerprint, and smaller vocabularies fit: T5's do
    load_model_folder(folder)


def test_a_tokeniser_too_large_for_a_plain_folder_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    (folder / "ciyuan.json").unlink()
    tokenizer(["abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"]).save(folder)
    with pytest.raises(ModelFolderError, match=r"tokeniser of another model: \d+ tokens for a vocabulary of"):
        load_model_folder(folder)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    file = saved(tmp_path) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)
    with pytest.raises(ModelFolderError, match="its contents are not what was written"):
        load_model_folder(tmp_path)


def test_a_failed_save_leaves_the_model_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    wanted = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_tensors", full)
    with pytest.raises(DiskError, match="the disk is full"):
        saved(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == wanted


def test_a_sharded_model_is_read_by_its_index(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path)
    wanted = load_transformer(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = load_transformer(folder).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_exported_tensors_are_no_views_of_the_model() -> None:
    made = model(config("vaswani-2017", tokenizer()))
    _, tensors = to_hugging_face(made)
    assert tensors["model.shared.weight"].shape == made.embedding.weight.shape
