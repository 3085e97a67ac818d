"""GGUF files: what is written comes back bit for bit, what others wrote is read as they meant it, and what lies is refused."""

from __future__ import annotations

import errno
import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from ciyuan.batch import Layout, Stream
from ciyuan.errors import DiskError, ModelFolderError, UserError
from ciyuan.interop import Loaded, load_model_folder, save_model_folder, stop_ids
from ciyuan.interop.gguf import DTYPES, read_gguf, write_gguf
from ciyuan.interop.gguf.cuts import CUTS
from ciyuan.interop.gguf.kinds import KINDS
from ciyuan.model import ModelConfig, Transformer
from ciyuan.text import SpecialTokens, Tokenizer, TokenizerSettings, chat
from ciyuan.text.special import NO_PAD
from tests.interop import folders

TEXTS = [
    "open the help menu",
    "it's 2026, isn't it?\n\n  yes",
    "def f(x):\n    return x ** 2",
    "打开帮助菜单，单击确定。",
    "café ½ 🤖👩‍💻 \u200bx",
    "",
]
SMALL = {"d_model": 64, "n_heads": 4, "d_ff": 96, "n_layers": 2, "vocab_size": 320, "max_positions": 40}
LLAMA = {
    "family": "decoder", "norm": "rms", "norm_bias": False, "norm_position": "pre", "positions": "rotary", "gated": True,
    "activation": "silu", "ff_bias": False, "attention_bias": False, "dropout": 0.0, "n_kv_heads": 2, "norm_eps": 1e-6,
}  # fmt: skip
MODELS: dict[str, dict[str, object]] = {
    "llama": {**LLAMA, "tied": True},
    "llama with everything": {**LLAMA, "attention_bias": True, "ff_bias": True, "d_head": 24, "tied": False, "rope_base": 5e5},
    "llama 3": {**LLAMA, "rope_base": 5e5, "rope_scaling": {"kind": "llama3", "factor": 32.0, "original_positions": 8192}},
    "llama stretched": {**LLAMA, "rope_scaling": {"kind": "linear", "factor": 4.0}},
    "qwen2 by yarn": {**LLAMA, "attention_bias": True, "attention_out_bias": False,
                      "rope_scaling": {"kind": "yarn", "factor": 4.0, "original_positions": 20}},
    "qwen2": {**LLAMA, "attention_bias": True, "attention_out_bias": False, "tied": False},
    "qwen3": {**LLAMA, "qk_norm": True, "d_head": 32, "tied": True},
    "gpt2": {"family": "decoder", "norm": "layer", "norm_position": "pre", "positions": "learned", "activation": "gelu_tanh"},
}  # fmt: skip


def tokens(*extra: str, vocab_size: int = 300) -> Tokenizer:
    settings = TokenizerSettings(kind="bpe", vocab_size=vocab_size)
    return Tokenizer.train(TEXTS, settings, SpecialTokens(extra=extra))


def model(name: str, tokenizer: Tokenizer, **changes: object) -> Transformer:
    ids = {"pad_id": tokenizer.pad_id, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    return folders.model(ModelConfig.of({**SMALL, **MODELS[name], **ids, **changes}))


def logits(of: Transformer) -> torch.Tensor:
    ids = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return of.logits(of.hidden(Stream(ids, Layout.whole(ids))))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "model.gguf"
    tokenizer = tokens(*chat.MARKERS)
    write_gguf(path, model("llama", tokenizer), tokenizer, {}, dtype="f32")
    return path


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_in_float32_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    tokenizer = tokens()
    before = model(name, tokenizer)
    write_gguf(tmp_path / "model.gguf", before, tokenizer, {}, dtype="f32")
    after = read_gguf(tmp_path / "model.gguf")
    wanted, found = before.state_dict(), after.model.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert torch.equal(logits(after.model), logits(before))
    assert after.model.config.rope_scaling == before.config.rope_scaling
    assert not after.model.training
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("name", MODELS)
def test_each_model_is_of_the_architecture_that_runtimes_know_it_by(name: str, tmp_path: Path) -> None:
    tokenizer = tokens()
    write_gguf(tmp_path / "model.gguf", model(name, tokenizer), tokenizer, {"name": "Tiny"}, dtype="f32")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["general.architecture"].contents() == name.partition(" ")[0]
    assert fields["general.name"].contents() == "Tiny"
    assert fields["tokenizer.ggml.pre"].contents() == "qwen2"
    assert len(fields["tokenizer.ggml.tokens"].contents()) == 320


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_come_back_as_their_kind_rounds_them(dtype: str, tmp_path: Path) -> None:
    tokenizer = tokens()
    before = model("qwen3", tokenizer)
    write_gguf(tmp_path / "model.gguf", before, tokenizer, {}, dtype=dtype)
    after = read_gguf(tmp_path / "model.gguf").model.state_dict()
    for name, tensor in before.state_dict().items():
        if tensor.ndim == 2 and dtype != "f32":
            qtype = Q[DTYPES[dtype]]
            rounded = gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), qtype), qtype)
            assert np.array_equal(after[name].numpy(), rounded), name
            assert not torch.equal(after[name], tensor), name
        else:
            assert torch.equal(after[name], tensor), name


def test_rows_that_make_no_whole_blocks_stay_float32(tmp_path: Path) -> None:
    tokenizer = tokens()
    before = model("qwen3", tokenizer, d_ff=80)
    write_gguf(tmp_path / "model.gguf", before, tokenizer, {}, dtype="q8_0")
    tensors = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert tensors["blk.0.ffn_down.weight"] == Q.F32
    assert tensors["blk.0.ffn_up.weight"] == Q.Q8_0
    assert tensors["blk.0.attn_norm.weight"] == Q.F32


def test_the_kinds_are_those_of_the_package() -> None:
    for kind in KINDS.values():
        assert gguf.GGML_QUANT_SIZES[Q(kind.number)] == (kind.n_values, kind.n_bytes), kind.name
        assert Q(kind.number).name == kind.name


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.n_values > 1], ids=lambda kind: kind.name)
def test_a_file_of_another_writer_is_read_as_the_package_reads_it(kind: object, tmp_path: Path) -> None:
    qtype = Q(kind.number)  # type: ignore[attr-defined]
    tokenizer = tokens()
    made = model("qwen3", tokenizer, d_model=256, d_ff=256, d_head=64, n_layers=1)
    write_gguf(tmp_path / "plain.gguf", made, tokenizer, {}, dtype="f32")
    draw = np.random.default_rng(0)
    wanted: dict[str, np.ndarray] = {}

    def stored(name: str, data: np.ndarray) -> tuple[np.ndarray, Q]:
        if data.ndim < 2:
            return data, Q.F32
        raw = draw.integers(0, 256, gguf.quant_shape_to_byte_shape(data.shape, qtype), dtype=np.uint8)
        wanted[name] = np.nan_to_num(gguf.quants.dequantize(raw, qtype), nan=-1.0)
        return raw, qtype

    with np.errstate(all="ignore"):
        rewritten(tmp_path / "plain.gguf", tmp_path / "model.gguf", stored)
    found = read_gguf(tmp_path / "model.gguf")
    assert len(wanted) == 8
    assert kind.name in found.info["kinds"]  # type: ignore[attr-defined]
    ours = found.model.state_dict()
    assert np.array_equal(np.nan_to_num(ours["embedding.weight"].numpy(), nan=-1.0), wanted["token_embd.weight"])
    down = ours["decoder.blocks.0.feed_forward.sublayer.down.weight"].numpy()
    assert np.array_equal(np.nan_to_num(down, nan=-1.0), wanted["blk.0.ffn_down.weight"])


def rewritten(source: Path, to: Path, stored: Callable[[str, np.ndarray], tuple[np.ndarray, Q]]) -> None:
    """The same file by the package's own writer, its tensors as `stored` has them."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(to, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.alignment"):
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    for tensor in reader.tensors:
        data, qtype = stored(tensor.name, np.array(tensor.data))
        writer.add_tensor(tensor.name, data, raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_in_a_llama_the_two_of_a_rotary_pair_are_neighbours(tmp_path: Path) -> None:
    tokenizer = tokens()
    before = model("llama", tokenizer)
    write_gguf(tmp_path / "model.gguf", before, tokenizer, {}, dtype="f32")
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    attention = before.state_dict()
    for name, n_heads in (("q", 4), ("k", 2)):
        ours = attention[f"decoder.blocks.1.attention.sublayer.{name}.weight"].numpy()
        theirs = stored[f"blk.1.attn_{name}.weight"]
        for head in range(n_heads):
            for i in range(8):
                assert np.array_equal(theirs[16 * head + 2 * i], ours[16 * head + i])
                assert np.array_equal(theirs[16 * head + 2 * i + 1], ours[16 * head + 8 + i])
    v = attention["decoder.blocks.1.attention.sublayer.v.weight"].numpy()
    assert np.array_equal(stored["blk.1.attn_v.weight"], v)


def test_a_head_that_is_a_copy_of_the_embedding_is_tied(tmp_path: Path) -> None:
    tokenizer = tokens()
    untied = model("gpt2", tokenizer, tied=False)
    assert untied.head is not None
    with torch.no_grad():
        untied.head.weight.copy_(untied.embedding.weight)  # type: ignore[union-attr]
    write_gguf(tmp_path / "model.gguf", untied, tokenizer, {}, dtype="f32")
    after = read_gguf(tmp_path / "model.gguf").model
    assert after.config.tied
    assert torch.equal(logits(after), logits(untied))


# --- The tokeniser -----------------------------------------------------------------------------------------------------


def test_the_tokeniser_comes_back_with_its_roles(written: Path) -> None:
    before, after = tokens(*chat.MARKERS), read_gguf(written).tokenizer
    assert [after.encode(text) for text in TEXTS] == [before.encode(text) for text in TEXTS]
    assert [after.decode(after.encode(text)) for text in TEXTS] == TEXTS
    assert after.special == before.special
    assert after.vocab_size == before.vocab_size
    assert after.encode("<s></s><|im_end|>") == before.encode("<s></s><|im_end|>")


@given(st.text())
def test_any_text_has_the_same_ids(text: str) -> None:
    before, after = _both()
    assert after.encode(text) == before.encode(text)


_KEPT: list[tuple[Tokenizer, Tokenizer]] = []


def _both() -> tuple[Tokenizer, Tokenizer]:
    if not _KEPT:
        from ciyuan.interop.gguf.architectures import Metadata
        from ciyuan.interop.gguf.container import Typed
        from ciyuan.interop.gguf.tokens import read_tokenizer, write_tokenizer

        before = tokens()
        found = write_tokenizer(before, model("gpt2", before).config)
        plain = {key: value.value if isinstance(value, Typed) else value for key, value in found.items()}
        _KEPT.append((before, read_tokenizer(Metadata(plain, None), 320).tokenizer))
    return _KEPT[0]


LLAMA_CPP_QWEN2 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What llama.cpp does for tokenizer.ggml.pre = qwen2, in its own spelling."""


@given(
    st.text(
        alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("'sStTrReEmM lLdDvV19\r\n\t中"))
    )
)
def test_our_cut_is_the_one_that_runtimes_call_qwen2(text: str) -> None:
    theirs = pre_tokenizers.Split(Regex(LLAMA_CPP_QWEN2), "isolated").pre_tokenize_str(text)
    ours = pre_tokenizers.Split(Regex(CUTS["qwen2"].steps[0]), "isolated").pre_tokenize_str(text)
    if "ſ" not in text:  # 'ſ is a form of 'S to who folds cases, and not to llama.cpp
        assert ours == theirs


@pytest.mark.parametrize("name", CUTS)
def test_each_cut_is_written_by_a_name_that_reads_back_as_itself(name: str, tmp_path: Path) -> None:
    tokenizer = tokens()
    tokenizer.backend.pre_tokenizer = CUTS[name].build()
    tokenizer.backend.model.ignore_merges = CUTS[name].whole_words
    write_gguf(tmp_path / "model.gguf", model("gpt2", tokenizer), tokenizer, {}, dtype="f16")
    said = gguf.GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.pre"].contents()
    assert CUTS[said] == CUTS[name]
    after = read_gguf(tmp_path / "model.gguf").tokenizer
    assert [after.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_a_tokeniser_that_composes_characters_is_written_with_a_word_about_it(tmp_path: Path) -> None:
    tokenizer = tokens()
    assert write_gguf(tmp_path / "plain.gguf", model("gpt2", tokenizer), tokenizer, {}, dtype="f16") == []
    tokenizer.backend.normalizer = normalizers.NFC()
    notes = write_gguf(tmp_path / "model.gguf", model("gpt2", tokenizer), tokenizer, {}, dtype="f16")
    assert "(NFC)" in notes[0]
    after = read_gguf(tmp_path / "model.gguf").tokenizer
    assert after.encode("caf\u00e9") == tokenizer.encode("cafe\u0301")


def test_words_of_the_users_own_are_tokens_in_any_text(tmp_path: Path) -> None:
    tokenizer = tokens()
    tokenizer.backend.add_tokens([AddedToken("HELP ME", normalized=False)])
    write_gguf(tmp_path / "model.gguf", model("gpt2", tokenizer), tokenizer, {}, dtype="f16")
    after = read_gguf(tmp_path / "model.gguf").tokenizer
    assert after.encode("aHELP MEb") == tokenizer.encode("aHELP MEb")
    assert tokenizer.id_of_token("HELP ME") in after.encode("aHELP MEb")


def test_the_chat_template_goes_into_the_folder_and_out_again(tmp_path: Path) -> None:
    before = model("qwen3", tokens(*chat.MARKERS))
    write_gguf(tmp_path / "plain.gguf", before, tokens(*chat.MARKERS), {}, dtype="f32")

    def change(found: Changes) -> None:
        found["tokenizer.chat_template"] = "{{ messages[0]['content'] }}!"

    loaded = read_gguf(changed(tmp_path / "plain.gguf", tmp_path / "other.gguf", change))
    save_model_folder(tmp_path / "folder", loaded.model, loaded.tokenizer, loaded.info, "")
    said = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
    assert said["chat_template"] == "{{ messages[0]['content'] }}!"
    again = load_model_folder(tmp_path / "folder")
    write_gguf(tmp_path / "again.gguf", again.model, again.tokenizer, again.info, dtype="f32")
    fields = gguf.GGUFReader(tmp_path / "again.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == "{{ messages[0]['content'] }}!"
    assert torch.equal(logits(again.model), logits(before))


def test_a_chat_model_of_ours_takes_its_template_along(written: Path) -> None:
    fields = gguf.GGUFReader(written).fields
    assert fields["tokenizer.chat_template"].contents() == chat.template(tokens(*chat.MARKERS).special)
    assert fields["tokenizer.ggml.eot_token_id"].contents() == chat.end_id(tokens(*chat.MARKERS))
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True


def test_a_text_begins_with_bos_only_where_the_file_says_so(written: Path, tmp_path: Path) -> None:
    def change(found: Changes) -> None:
        found["tokenizer.ggml.add_bos_token"] = False

    loaded = read_gguf(changed(written, tmp_path / "other.gguf", change))
    assert read_gguf(written).tokenizer.has("bos")
    assert not loaded.tokenizer.has("bos")
    assert loaded.model.config.bos_id is None


def test_padding_that_is_another_roles_token_is_none_as_in_a_folder(written: Path, tmp_path: Path) -> None:
    def change(found: Changes) -> None:
        found["tokenizer.ggml.padding_token_id"] = found["tokenizer.ggml.eos_token_id"]

    before, loaded = read_gguf(written), read_gguf(changed(written, tmp_path / "other.gguf", change))
    assert loaded.tokenizer.special.pad is None
    end = loaded.tokenizer.pad_id
    save_model_folder(tmp_path / "folder", loaded.model, loaded.tokenizer, {}, "")
    (tmp_path / "folder" / "ciyuan.json").unlink()
    again = load_model_folder(tmp_path / "folder")
    assert again.notes == loaded.notes == (NO_PAD,)
    assert again.tokenizer.special == loaded.tokenizer.special
    for found in (again.model.config, loaded.model.config):
        assert (found.pad_id, found.bos_id, found.eos_id) == (end, before.tokenizer.bos_id, end)
    assert before.notes == ()


def test_the_ends_of_a_turn_and_of_a_message_end_a_text_and_are_kept_in_a_folder(written: Path, tmp_path: Path) -> None:
    loaded = read_gguf(
        changed(
            written,
            tmp_path / "other.gguf",
            lambda found: found.update({"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 9}),
        )
    )
    end = loaded.model.config.eos_id
    assert stop_ids(loaded.info) == (end, 7, 9)
    save_model_folder(tmp_path / "folder", loaded.model, loaded.tokenizer, loaded.info, "")
    assert json.loads((tmp_path / "folder" / "generation_config.json").read_text())["eos_token_id"] == [end, 7, 9]
    assert stop_ids(load_model_folder(tmp_path / "folder").info) == (end, 7, 9)


def test_a_sentencepiece_vocabulary_gives_its_ids(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "text.txt").write_text("\n".join([*TEXTS, "printing the pages of the menus, opened and closed"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "sp"), model_type="bpe", vocab_size=380,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
        minloglevel=2, hard_vocab_limit=False, pad_id=3,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    n = pieces.vocab_size()

    def kind(i: int) -> int:
        return 2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1

    tokenizer = tokens()
    write_gguf(tmp_path / "plain.gguf", model("llama", tokenizer, vocab_size=n), tokenizer, {}, dtype="f32")

    def change(found: Changes) -> None:
        found["tokenizer.ggml.model"] = "llama"
        found["tokenizer.ggml.pre"] = "default"
        found["tokenizer.ggml.tokens"] = [pieces.id_to_piece(i) for i in range(n)]
        found["tokenizer.ggml.token_type"] = [kind(i) for i in range(n)]
        found["tokenizer.ggml.scores"] = [pieces.get_score(i) for i in range(n)]
        found["tokenizer.ggml.unknown_token_id"] = pieces.unk_id()
        found["tokenizer.ggml.padding_token_id"] = pieces.pad_id()
        del found["tokenizer.ggml.merges"]

    loaded = read_gguf(changed(tmp_path / "plain.gguf", tmp_path / "model.gguf", change))
    mixed = [*TEXTS, "opened  menus closed, 打开 printing\tthe q̃ of ▁ it"]
    assert [loaded.tokenizer.encode(text) for text in mixed] == [pieces.encode(text) for text in mixed]
    assert [loaded.tokenizer.decode(loaded.tokenizer.encode(text)) for text in TEXTS] == TEXTS
    write_gguf(tmp_path / "again.gguf", loaded.model, loaded.tokenizer, {}, dtype="f32")
    again = read_gguf(tmp_path / "again.gguf").tokenizer
    assert [again.encode(text) for text in mixed] == [pieces.encode(text) for text in mixed]


# --- What cannot be written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"window": 8}, "model.window = 8"),
        ("llama", {"activation": "gelu"}, "model.activation = gelu"),
        ("llama", {"norm_position": "sandwich"}, "model.norm_position = sandwich"),
        ("qwen3", {"attention_bias": True}, "model.attention_bias = True"),
        (
            "qwen3",
            {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_positions": 8192}},
            "model.rope_scaling = ",
        ),
        (
            "llama",
            {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_positions": 4096}},
            "model.rope_scaling = ",
        ),
        (
            "llama",
            {"rope_scaling": {"kind": "yarn", "factor": 8.0, "original_positions": 40, "attention_factor": 1.0}},
            "model.rope_scaling = ",
        ),
        ("llama", {"norm_offset": 1.0}, "model.norm_offset = 1.0"),
        ("llama", {"logit_soft_cap": 30.0}, "model.logit_soft_cap = 30.0"),
        ("gpt2", {"activation": "relu"}, "model.activation = relu"),
        ("gpt2", {"logit_scale": 0.5}, "model.logit_scale = 0.5"),
        ("gpt2", {"attention_scale": 1.0}, "model.attention_scale = 1.0"),
        ("gpt2", {"head_bias": True}, "model.head_bias = True"),
        ("gpt2", {"head": "classification", "n_labels": 3}, "model.head = classification"),
    ],
)
def test_a_model_that_gguf_cannot_carry_is_refused_by_name(
    name: str, changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    tokenizer = tokens()
    with pytest.raises(ModelFolderError, match="GGUF has no architecture for this model") as caught:
        write_gguf(tmp_path / "model.gguf", model(name, tokenizer, **changes), tokenizer, {}, dtype="f32")
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", [*folders.ENCODERS, *folders.SEQ2SEQ])
def test_encoders_and_translators_are_refused(preset: str, tmp_path: Path) -> None:
    tokenizer = folders.tokenizer_for(preset)
    made = folders.model(folders.config(preset, tokenizer))
    with pytest.raises(ModelFolderError, match=r"model\.family = encoder"):
        write_gguf(tmp_path / "model.gguf", made, tokenizer, {}, dtype="f32")


def test_a_tokeniser_that_no_runtime_knows_is_refused(tmp_path: Path) -> None:
    tokenizer = folders.tokenizer()
    with pytest.raises(ModelFolderError, match="know no tokeniser that cuts and normalises as this one") as caught:
        write_gguf(tmp_path / "model.gguf", model("gpt2", tokenizer), tokenizer, {}, dtype="f32")
    assert "tokenizer.kind: bpe" in str(caught.value)


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    tokenizer = tokens()
    with pytest.raises(UserError, match=r"q8 is no dtype of GGUF\n.*q8_0"):
        write_gguf(tmp_path / "model.gguf", model("gpt2", tokenizer), tokenizer, {}, dtype="q8")


def test_weights_beyond_half_precision_are_not_made_infinite(tmp_path: Path) -> None:
    tokenizer = tokens()
    made = model("gpt2", tokenizer)
    with torch.no_grad():
        made.embedding.weight[5, 5] = 1e5
    with pytest.raises(ModelFolderError, match=r"token_embd\.weight has numbers that F16 cannot hold"):
        write_gguf(tmp_path / "model.gguf", made, tokenizer, {}, dtype="f16")
    assert not list(tmp_path.iterdir())
    write_gguf(tmp_path / "model.gguf", made, tokenizer, {}, dtype="bf16")


def test_a_full_disk_leaves_the_file_as_it_was(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"as it was")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    loaded = read_gguf(written)
    with pytest.raises(DiskError, match="the disk is full"):
        write_gguf(path, loaded.model, loaded.tokenizer, loaded.info, dtype="f32")
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]
    assert path.read_bytes() == b"as it was"


def test_blocks_need_the_package_and_floats_do_not(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = read_gguf(written)
    write_gguf(tmp_path / "blocks.gguf", loaded.model, loaded.tokenizer, {}, dtype="q8_0")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    write_gguf(tmp_path / "floats.gguf", loaded.model, loaded.tokenizer, {}, dtype="bf16")
    read_gguf(tmp_path / "floats.gguf")
    with pytest.raises(UserError, match=r"need the package gguf; pip install 'ciyuan\[gguf\]'"):
        write_gguf(tmp_path / "more.gguf", loaded.model, loaded.tokenizer, {}, dtype="q8_0")
    with pytest.raises(UserError, match=r"pip install 'ciyuan\[gguf\]'"):
        read_gguf(tmp_path / "blocks.gguf")


# --- Files that lie ----------------------------------------------------------------------------------------------------

Changes = dict[str, object]


def changed(source: Path, to: Path, change: Callable[[Changes], None]) -> Path:
    """The file with other metadata, by our own writer."""
    from ciyuan.interop.gguf.container import F32, I32, U32, GgufFile, Typed, write_container
    from ciyuan.interop.gguf.kinds import named

    def typed(value: object) -> object:
        if isinstance(value, str | bool) or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            return value
        first = value[0] if isinstance(value, list) else value
        return Typed(F32 if isinstance(first, float) else I32 if isinstance(value, list) else U32, value)  # type: ignore[arg-type]

    with GgufFile(source) as file, to.open("wb") as target:
        found: Changes = dict(file.metadata)
        change(found)
        tensors = {name: (tensor, named("F32")) for name, tensor in file.items() if found.pop(f"drop {name}", True)}
        tensors |= {
            name: (found.pop(name), named("F32")) for name in list(found) if isinstance(found[name], torch.Tensor)
        }  # type: ignore[misc]
        write_container(target, {key: typed(value) for key, value in found.items()}, tensors)  # type: ignore[misc]
    return to


def key_of(name: str, kind: int, rest: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + rest


def text_of(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


ARCHITECTURE = key_of("general.architecture", 8, text_of(b"llama"))


def tensor_of(name: str = "t", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text_of(name.encode()) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header(
    keys: list[bytes],
    tensors: list[bytes],
    *,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    rest: int = 4096,
) -> bytes:
    counts = struct.pack(
        "<IQQ", 3, len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys
    )
    return b"GGUF" + counts + b"".join(keys) + b"".join(tensors) + bytes(rest)


A = [ARCHITECTURE]
LIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is no GGUF file"),
    "another format": (b"PK\x03\x04" + bytes(100), "is no GGUF file"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "of version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "a version to come": (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "of version 99"),
    "a trillion tensors": (header(A, [], n_tensors=10**12), "1,000,000,000,000 tensors in a file"),
    "all the tensors there are": (header(A, [], n_tensors=2**64 - 1), "tensors in a file"),
    "a trillion keys": (header(A, [], n_keys=10**12), "keys in a file"),
    "a long key": (header([text_of(b"k", 10**18)], []), "a text of 1,000,000,000,000,000,000 bytes"),
    "a long text": (header([key_of("general.name", 8, text_of(b"x", 2**63))], []), "a text of"),
    "a text longer than the file": (header([key_of("general.name", 8, text_of(b"x", 10**6))], []), "1,000,000 texts|is damaged"),
    "a text that is not UTF-8": (header([key_of("general.name", 8, text_of(b"\xff\xfe"))], []), "not UTF-8"),
    "a long list of texts": (header([key_of("a", 9, struct.pack("<IQ", 8, 10**15))], []), "texts in a in a file"),
    "a long list of numbers": (header([key_of("a", 9, struct.pack("<IQ", 4, 2**62))], []), "numbers in a in a file"),
    "a list of bytes longer than any": (
        header([key_of("a", 9, struct.pack("<IQ", 0, 2**23))], [], rest=2**23), "numbers in a in a file"),
    "a list of lists": (header([key_of("a", 9, struct.pack("<IQ", 9, 2))], []), "is of type 9"),
    "an unknown type": (header([key_of("a", 77, b"")], []), "is of type 77"),
    "a key twice": (header([ARCHITECTURE, ARCHITECTURE], []), "is there twice"),
    "no dimensions": (header(A, [tensor_of(shape=())]), "has 0 dimensions"),
    "many dimensions": (header(A, [tensor_of(shape=(1,) * 9)]), "has 9 dimensions"),
    "a dimension of nought": (header(A, [tensor_of(shape=(4, 0))]), "has the shape"),
    "a shape that overflows": (header(A, [tensor_of(shape=(2**63, 2**63))]), "ends at byte"),
    "a shape that overflows to nought": (header(A, [tensor_of(shape=(2**32, 2**32))]), "ends at byte"),
    "half a block": (header(A, [tensor_of(shape=(31,), kind=8)]), "of kind Q8_0 has the shape"),
    "a kind that is not read": (header(A, [tensor_of(kind=16)]), "(?s)number 16.*Q4_K"),
    "a kind of integers": (header(A, [tensor_of(kind=26)]), "number 26"),
    "a place beyond the file": (header(A, [tensor_of(offset=2**40)]), "ends at byte"),
    "a place that overflows": (header(A, [tensor_of(offset=2**64 - 32)]), "ends at byte"),
    "a place between the lines": (header(A, [tensor_of(offset=7)]), "lies in another tensor's place"),
    "two in one place": (header(A, [tensor_of("t"), tensor_of("u")]), "lies in another tensor's place"),
    "a tensor twice": (header(A, [tensor_of("t"), tensor_of("t", offset=32)]), "t is there twice"),
    "an alignment of nought": (header([*A, key_of("general.alignment", 4, bytes(4))], [tensor_of()]), "alignment is 0"),
    "an odd alignment": (header([*A, key_of("general.alignment", 4, struct.pack("<I", 48))], [tensor_of()]), "alignment is 48"),
    "an alignment that is text": (header([*A, key_of("general.alignment", 8, text_of(b"32"))], []), "alignment is 32"),
    "no architecture": (header([], []), "architecture None is not read"),
    "an architecture that we lack": (header([key_of("general.architecture", 8, text_of(b"mamba"))], []), "mamba is not read"),
    "an architecture for the terminal": (
        header([key_of("general.architecture", 8, text_of(b"\x1b[2J"))], []), r"\\x1b\[2J is not read"),
    "an architecture that is a number": (header([key_of("general.architecture", 4, bytes(4))], []), "0 is not read"),
    "no tensors": (header(A, []), "no token_embd.weight"),
    "an embedding of one dimension": (header(A, [tensor_of("token_embd.weight")]), "no token_embd.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    content, said = LIES[name]
    (tmp_path / "model.gguf").write_bytes(content)
    refused(tmp_path / "model.gguf", said)


def sets(**found: object) -> Callable[[Changes], None]:
    return lambda metadata: metadata.update({key.replace("__", "."): value for key, value in found.items()})


def lacks(*names: str) -> Callable[[Changes], None]:
    return lambda metadata: [metadata.pop(name) for name in names] and None


def edits(name: str, change: Callable[[list[object]], object]) -> Callable[[Changes], None]:
    return lambda metadata: change(metadata[f"tokenizer.ggml.{name}"]) and None  # type: ignore[arg-type,func-returns-value]


ILLS: dict[str, tuple[Callable[[Changes], None], str]] = {
    "a setting that we lack": (sets(llama__attention__clamp_kqv=1.0), "llama.attention.clamp_kqv"),
    "a key of no one": (sets(evil__key=1), "evil.key"),
    "a key of the tokeniser that we lack": (sets(tokenizer__ggml__suppress_tokens=[1]), "suppress_tokens"),
    "experts": (sets(llama__expert_count=8), "expert_count is 8"),
    "a window": (sets(llama__attention__sliding_window=16), "sliding_window is 16"),
    "attention both ways": (sets(llama__attention__causal=False), "attention.causal is False"),
    "turned in part": (sets(llama__rope__dimension_count=8), "dimension_count is 8"),
    "turned as no one knows": (sets(rope_freqs__weight=torch.linspace(1, 8, 8)), "rope_freqs.weight is not what follows"),
    "turned too little": (sets(rope_freqs__weight=torch.ones(3)), "rope_freqs.weight is not what follows"),
    "turned twice": (sets(rope_freqs__weight=torch.ones(8), llama__rope__scaling__type="yarn",
                          llama__rope__scaling__factor=2.0), "and by rope_freqs.weight"),
    "positions scaled by noughts": (sets(rope_freqs__weight=torch.zeros(8)), "rope_scaling.*greater than 0"),
    "positions scaled otherwise": (sets(llama__rope__scaling__type="longrope"), "scaling.type is longrope"),
    "attention scaled": (sets(llama__rope__scaling__attn_factor=2.0), "attn_factor is 2.0"),
    "an adapter": (sets(general__type="adapter"), "general.type is adapter"),
    "a part of several": (sets(split__count=3), "split.count is 3"),
    "many layers": (sets(llama__block_count=2**23), "(?s)block_count is 8,388,608"),
    "a width beyond counting": (sets(llama__embedding_length=2**31), "embedding_length is"),
    "another width": (sets(llama__embedding_length=128), "implies"),
    "another vocabulary": (sets(llama__vocab_size=7), "vocab_size is 7"),
    "heads of several counts": (sets(llama__attention__head_count=[4, 2]), "head_count is"),
    "no heads": (lacks("llama.attention.head_count"), "head_count is missing"),
    "an odd number of heads": (sets(llama__attention__head_count=3), "not a multiple|is 16"),
    "a width that is text": (sets(llama__embedding_length="64"), "embedding_length is 64"),
    "an epsilon that is no number": (sets(llama__attention__layer_norm_rms_epsilon=float("nan")), "epsilon is nan"),
    "a tensor too many": (sets(evil=torch.zeros(3)), "does not have: evil"),
    "a tensor too few": (lambda found: found.update({"drop blk.1.attn_norm.weight": False}), "are missing: blk.1.attn_norm.weight"),
    "a tokeniser that we lack": (sets(tokenizer__ggml__model="t5"), "model is t5"),
    "no tokeniser": (lacks("tokenizer.ggml.model"), "tokenizer.ggml.model is missing"),
    "a cut that we lack": (sets(tokenizer__ggml__pre="tekken"), "pre is tekken"),
    "no cut": (lacks("tokenizer.ggml.pre"), "pre is missing"),
    "no tokens": (lacks("tokenizer.ggml.tokens"), "tokens is missing"),
    "too few tokens": (edits("tokens", lambda tokens: tokens.pop()), "319 tokens for 320 rows"),
    "too few kinds of tokens": (edits("token_type", lambda kinds: kinds.pop()), "319 values"),
    "a token twice": (edits("tokens", lambda tokens: tokens.__setitem__(9, tokens[10])), "2 times"),
    "an empty token": (edits("tokens", lambda tokens: tokens.__setitem__(9, "")), "an empty text"),
    "a merge of nothing": (edits("merges", lambda merges: merges.append("a")), "is no pair"),
    "a merge of what is no token": (edits("merges", lambda merges: merges.append("q zz")), "not a tokeniser"),
    "EOS beyond the vocabulary": (sets(tokenizer__ggml__eos_token_id=999), "eos_token_id is 999"),
    "no EOS": (lacks("tokenizer.ggml.eos_token_id"), "eos_token_id is missing"),
    "a turn that ends beyond the vocabulary": (sets(tokenizer__ggml__eot_token_id=999), "eot_token_id is 999"),
    "tokens that are numbers": (sets(tokenizer__ggml__tokens=[1] * 320), "tokens is missing|tokens is 1"),
    "a template that is a number": (sets(tokenizer__chat_template=1), "chat_template is 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", ILLS)
def test_a_model_that_asks_for_what_we_do_not_compute_is_refused(name: str, written: Path, tmp_path: Path) -> None:
    change, said = ILLS[name]
    refused(changed(written, tmp_path / "model.gguf", change), said)


@pytest.mark.parametrize("part", [0.001, 0.01, 0.1, 0.5, 0.999])
def test_a_file_cut_short_is_refused(part: float, written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[: int(part * len(content))])
    refused(tmp_path / "model.gguf", "is damaged|is no GGUF file")


def test_damaged_headers_are_refused_or_read_and_never_more(written: Path, tmp_path: Path) -> None:
    content, draw = bytearray(written.read_bytes()), np.random.default_rng(5)
    path, n_refused, longest = tmp_path / "model.gguf", 0, 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[int(draw.integers(0, 9000))] ^= int(draw.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read_gguf(path)
        except UserError as error:
            n_refused += 1
            longest = max(longest, len(str(error).splitlines()))
    assert n_refused > 20
    assert longest <= 3


def refused(path: Path, said: str) -> None:
    """In three lines, soon, and in little memory."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(ModelFolderError, match=said) as caught:
            read_gguf(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert len(message) < 1000
    assert "\x1b" not in message
    assert peak < 50_000_000
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["nowhere.gguf", "a\0b", "x" * 5000])
def test_a_file_that_is_not_there_is_not_fetched(name: str) -> None:
    with pytest.raises(ModelFolderError, match="no such file"):
        read_gguf(name)


def test_folders_and_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(ModelFolderError, match="is not a plain file"):
            read_gguf(path)


def test_reading_draws_nothing_from_the_global_generator(written: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    loaded: Loaded = read_gguf(written)
    assert torch.equal(torch.rand(3), wanted)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
