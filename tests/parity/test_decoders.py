"""The decoders of `decoder_rows` beside a cache, each release's spelling of one model, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.batch import Layout, Stream
from ciyuan.errors import ModelFolderError
from ciyuan.interop import family_of, load_transformer
from ciyuan.interop.families import FAMILIES
from ciyuan.interop.family import canonical
from ciyuan.interop.settings import TheirSettings
from ciyuan.model import ModelConfig
from ciyuan.model.positions import RotaryPositions
from tests.parity.decoder_rows import GEMMA2, GEMMA3, LLAMA, LLAMA3, LONGROPE, ODD_YARN, OPT, QWEN2, YARN
from tests.parity.reference import transformers
from tests.parity.stacks import assert_same, build

LlamaRotaryEmbedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers, which are not ours to mend

LATE = {"use_sliding_window": True, "max_window_layers": 1}


@pytest.mark.parametrize(
    "row",
    [
        "llama llama3", "llama yarn, odd", "llama longrope", "mistral",
        "qwen2 own head, late windows, no head size", "qwen3 yarn, late windows",
        "gemma2", "gemma3 own head, cap, biases, linear, odd layers", "gemma3 one base, one of them scaled", "opt",
        "opt post-norm, norms without parameters, pad 0",
    ],
)  # fmt: skip
@torch.no_grad()
def test_step_by_step_both_caches_say_the_same_far_beyond_the_windows(row: str, tmp_path: Path) -> None:
    """Theirs forgets what a window has left behind, ours masks it."""
    theirs = build(row)
    theirs.save_pretrained(tmp_path)
    ours = load_transformer(tmp_path)
    ids = torch.randint(4, 37, (2, 40), generator=torch.Generator().manual_seed(5))
    cache, past, start = ours.new_cache(), None, 0
    for end in (9, 10, 11, 14, *range(15, 41)):
        piece = ids[:, start:end]
        wanted = theirs(input_ids=piece, past_key_values=past, use_cache=True)
        hidden = ours.hidden(Stream(piece, Layout.whole(piece, start)), cache=cache)
        assert_same({"logits": ours.logits(hidden)}, {"logits": wanted.logits})
        past, start = wanted.past_key_values, end


FACTORS = [1.0 + i**1.5 / 9 for i in range(64)]
FINE = {
    "rope_type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS, "original_max_position_embeddings": 12,
}  # fmt: skip


@pytest.mark.parametrize(
    "scaling",
    [None, {"rope_type": "linear", "factor": 8.0}, LLAMA3, YARN, ODD_YARN, FINE],
    ids=lambda found: str(found)[:40],
)
@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_rotations_are_the_same_a_hundred_thousand_tokens_from_the_start(
    scaling: dict[str, Any] | None, base: float
) -> None:
    """To the last bit: there, one bit of a frequency is a hundredth of a radian."""
    settings = {
        **LLAMA,
        "head_dim": 128,
        "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": base},
    }
    theirs = LlamaRotaryEmbedding(transformers.LlamaConfig(**settings))
    ours = RotaryPositions(read("llama", settings))
    positions = torch.tensor([[0, 1, 999, 100_000]])
    cos, sin = theirs(torch.zeros(1), positions)
    found = ours.rotation(positions)
    assert torch.equal(found.cos[:, 0], cos[..., :64])
    assert torch.equal(found.sin[:, 0], sin[..., :64])


def read(model_type: str, settings: dict[str, Any]) -> ModelConfig:
    return FAMILIES[model_type].config(TheirSettings({"model_type": model_type, **settings}, "config.json"))


@pytest.mark.parametrize(
    ("model_type", "older", "newer"),
    [
        (
            "llama",
            {**LLAMA, "rope_theta": 5e5, "rope_scaling": LLAMA3},
            {**LLAMA, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
        ),
        ("llama", {**LLAMA, "pretraining_tp": 2, "rope_scaling": None}, {**LLAMA, "head_dim": 12, "mlp_bias": False}),
        (
            "qwen2",
            {**QWEN2, "rope_theta": 9e5, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}},
            {**QWEN2, "rope_parameters": {**YARN, "rope_theta": 9e5}, "use_mrope": False},
        ),
        (
            "llama",
            {**LLAMA, "rope_parameters": {"type": "yarn", "rope_type": "yarn", "factor": 4.0, "beta_slow": None, "truncate": True}},
            {**LLAMA, "rope_parameters": {**YARN, "original_max_position_embeddings": 48, "beta_fast": 32, "beta_slow": 1}},
        ),
        (
            "qwen2",
            {**QWEN2, **LATE, "sliding_window": 5},
            {**QWEN2, "use_sliding_window": True, "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]},
        ),
        ("qwen2", QWEN2, {**QWEN2, "sliding_window": 5, "max_window_layers": 1, "layer_types": ["full_attention"] * 2}),
        (
            "gemma2",
            {**GEMMA2, "sliding_window_size": 5, "hidden_act": "gelu", "cache_implementation": "hybrid"},
            {**GEMMA2, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        ),
        (
            "gemma3_text",
            {**GEMMA3, "rope_theta": 9e5, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            {
                **GEMMA3, "layer_types": [f"{kind}_attention" for kind in ("sliding", "sliding", "full", "sliding")],
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 9e5},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                },
            },
        ),
        ("opt", {**OPT, "activation_dropout": 0.0, "layerdrop": 0.0}, {**OPT, "word_embed_proj_dim": 24, "enable_bias": True}),
    ],
)  # fmt: skip
def test_each_releases_spelling_is_one_model(model_type: str, older: dict[str, Any], newer: dict[str, Any]) -> None:
    assert canonical(read(model_type, older)) == canonical(read(model_type, newer))


@pytest.mark.parametrize(
    ("model_type", "settings", "said"),
    [
        ("llama", {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "(?s)dynamic.*to the 48 tokens"),
        (
            "llama",
            {**LLAMA, "rope_parameters": {**LONGROPE, "original_max_position_embeddings": 12, "factor": None}},
            "(?s)longrope.*set max_position_embeddings to 12, and factor to 4 beside",
        ),
        ("llama", {**LLAMA, "rope_parameters": {**LONGROPE, "short_factor": [1.0]}}, "1 factors for heads of 12"),
        ("llama", {**LLAMA, "rope_parameters": {**LONGROPE, "short_factor": [0.0] * 6}}, "short_factor is"),
        ("llama", {**LLAMA, "rope_parameters": {**LONGROPE, "long_factor": None}}, "long_factor is None"),
        ("llama", {**LLAMA, "rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, "high 4.0 is not above low 4.0"),
        ("llama", {**LLAMA, "rope_parameters": {**YARN, "rope_theta": 1.0}}, "YaRN needs a .* above 1"),
        ("llama", {**LLAMA, "rope_parameters": {**YARN, "factor": None}}, "factor is None"),
        ("llama", {**LLAMA, "rope_parameters": {**YARN, "type": "linear"}}, "type is linear"),
        ("llama", {**LLAMA, "rope_parameters": {**YARN, "short_factor": [1.0]}}, "known to have: short_factor"),
        ("llama", {**LLAMA, "rope_parameters": YARN, "rope_scaling": {**YARN, "factor": 2.0}}, "rope_scaling and rope_parameters"),
        ("llama", {**LLAMA, "rope_parameters": YARN, "original_max_position_embeddings": 13}, "original_max_.* is 13"),
        ("llama", {**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {**LLAMA, "num_attention_heads": 10}, "24 is not a multiple of num_attention_heads 10"),
        ("llama", {**LLAMA, "sliding_window": 4}, "sliding_window"),
        ("mistral", {**LLAMA, "layer_types": ["sliding_attention"] * 2}, "layer_types"),
        ("mistral", {**LLAMA, "attention_bias": True}, "attention_bias"),
        ("mistral", {**LLAMA, "sliding_window": 0}, "sliding_window is 0"),
        ("qwen2", {**QWEN2, "use_mrope": True}, "use_mrope is True"),
        ("qwen2", {**QWEN2, "layer_types": ["sliding_attention"] * 2}, "use_sliding_window is False"),
        ("qwen2", {**QWEN2, **LATE, "sliding_window": None, "layer_types": ["sliding_attention"] * 2}, "sliding_window is null"),
        ("qwen2", {**QWEN2, "layer_types": ["full_attention"]}, "layer_types is"),
        ("qwen2", {**QWEN2, "layer_types": ["full_attention", "chunked_attention"]}, "layer_types is"),
        ("gemma2", {**GEMMA2, "use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma2", {**GEMMA2, "query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ("gemma2", {**GEMMA2, "attn_logit_softcapping": 0.0}, "attn_logit_softcapping is 0.0"),
        ("gemma2", {**GEMMA2, "sliding_window": None}, "sliding_window is None"),
        ("gemma3_text", {**GEMMA3, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma3_text", {**GEMMA3, "rope_parameters": {"sliding_attention": YARN}}, "rope_type is yarn"),
        ("gemma3_text", {**GEMMA3, "rope_parameters": {"full_attention": {**YARN, "truncate": False}}}, "truncate is False"),
        ("gemma3_text", {**GEMMA3, "rope_parameters": {"rope_type": "default"}}, "rope_type"),
        ("gemma3_text", {**GEMMA3, "sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ("gemma3_text", {**GEMMA3, "num_hidden_layers": 2**24}, "num_hidden_layers is 16777216"),
        ("opt", {**OPT, "word_embed_proj_dim": 12}, "word_embed_proj_dim is 12"),
        ("opt", {**OPT, "num_attention_heads": 5}, "not a multiple"),
    ],
)  # fmt: skip
def test_what_our_definition_does_not_compute_is_refused_by_name(
    model_type: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **settings}))
    with pytest.raises(ModelFolderError, match=said) as caught:
        load_transformer(tmp_path)
    assert len(str(caught.value).splitlines()) <= 3


BARE = {"family": "decoder", "vocab_size": 9, "d_model": 8, "n_heads": 2, "n_layers": 2, "d_ff": 8, "head": "none"}
MODERN = {
    **BARE, "norm": "rms", "norm_position": "pre", "positions": "rotary", "gated": True, "activation": "silu",
    "attention_bias": False, "ff_bias": False,
}  # fmt: skip
GEMMA = {**MODERN, "norm_position": "sandwich", "norm_offset": 1.0, "embedding_scale": 8**0.5, "qk_norm": True}


@pytest.mark.parametrize(
    ("fields", "held_by"),
    [
        (MODERN, "llama"),
        ({**MODERN, "qk_norm": True}, "qwen3"),
        ({**MODERN, "window": 4}, "mistral"),
        ({**MODERN, "window": 4, "windowed_layers": (1, 0)}, "mistral"),
        ({**MODERN, "window": 4, "windowed_layers": ()}, "llama"),
        ({**MODERN, "qk_norm": True, "window": 4, "windowed_layers": (0,)}, "qwen3"),
        ({**MODERN, "attention_bias": True, "attention_out_bias": False}, "qwen2"),
        ({**GEMMA, "qk_norm": False, "attention_soft_cap": 3.0}, "gemma2"),
        ({**GEMMA, "window": 4, "windowed_layers": (0,), "window_rope_base": 99.0}, "gemma3_text"),
        ({**GEMMA, "window": 4, "window_rope_base": 99.0, "rope_base": 5.0}, "gemma3_text"),
        ({**BARE, "norm_position": "pre", "positions": "learned", "position_offset": 2, "norm_weight": False}, "opt"),
        ({**BARE, "norm_position": "pre", "positions": "learned"}, "gpt2"),
    ],
)  # fmt: skip
def test_a_models_family_follows_from_what_it_computes(fields: dict[str, object], held_by: str) -> None:
    assert family_of(ModelConfig.of(fields)).model_type == held_by


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({**MODERN, "window": 4, "windowed_layers": (0,)}, r"model\.windowed_layers = \(0,\)"),
        ({**MODERN, "norm_offset": 1.0}, "norm_offset = 1.0"),
        ({**GEMMA, "attention_soft_cap": 3.0}, "attention_soft_cap = 3.0"),
        ({**GEMMA, "attention_scale": 0.3}, "attention_scale = 0.3"),
        ({**GEMMA, "embedding_scale": 1.0}, "embedding_scale = 1.0"),
        ({**GEMMA, "qk_norm": False, "window": 4, "windowed_layers": (0,), "window_rope_base": 9.0}, "window_rope_base = 9.0"),
    ],
)  # fmt: skip
def test_what_no_family_holds_is_named(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ModelFolderError, match=named):
        family_of(ModelConfig.of(fields))


def test_tables_that_older_files_hold_are_not_missed(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    build("llama").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    extra = {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    save_file(load_file(file) | extra, file, metadata={"format": "pt"})
    load_transformer(tmp_path)
