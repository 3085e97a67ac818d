from __future__ import annotations

import pytest
import torch

from ciyuan.batch import IGNORED, Batch, Layout, Stream
from ciyuan.errors import RecipeError
from ciyuan.model import PRESETS, ModelConfig, ModelSettings, Transformer, initialise
from ciyuan.model.attention import Attention, fused_attention, reference_attention
from tests.model.builders import VARIANTS, build, stream, tokens

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def logits_of(model: Transformer, text: Stream, source: Stream | None = None) -> torch.Tensor:
    memory = None if source is None else model.encode(source)
    layout = None if source is None else source.layout
    return model.logits(model.hidden(text, memory=memory, memory_layout=layout))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_a_future_token_cannot_change_past_logits(family, variant):
    model = build(family, variant)
    source = stream(tokens(2, 6, seed=9)) if family == "encoder-decoder" else None
    ids = tokens(2, 9)
    before = logits_of(model, stream(ids), source)
    for position in range(9):
        changed = ids.clone()
        changed[:, position] = (changed[:, position] - 2) % 20 + 3
        after = logits_of(model, stream(changed), source)
        torch.testing.assert_close(after[:, :position], before[:, :position], **CLOSE)
        assert not torch.allclose(after[:, position:], before[:, position:])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
def test_padding_does_not_change_logits(family, variant):
    model = build(family, variant)
    ids, source_ids = tokens(2, 8), tokens(2, 7, seed=5)
    both = family == "encoder-decoder"
    padded = logits_of(model, stream(ids, [8, 5]), stream(source_ids, [4, 7]) if both else None)
    for row, (length, source_length) in enumerate([(8, 4), (5, 7)]):
        source = stream(source_ids[row : row + 1, :source_length]) if both else None
        alone = logits_of(model, stream(ids[row : row + 1, :length]), source)
        torch.testing.assert_close(padded[row : row + 1, :length], alone, **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
def test_packed_texts_leak_nothing_into_one_another(family, variant):
    model = build(family, variant)
    lengths, source_lengths = [4, 3, 2], [2, 5, 1]
    ids, source_ids = tokens(1, 10), tokens(1, 8, seed=5)
    both = family == "encoder-decoder"

    def packed(sizes: list[int], width: int) -> Layout:
        positions = torch.cat([torch.arange(n) for n in sizes] + [torch.arange(width - sum(sizes))])
        segments = torch.cat(
            [torch.full((n,), i + 1) for i, n in enumerate(sizes)] + [torch.zeros(width - sum(sizes)).long()]
        )
        return Layout(positions[None], segments[None])

    source = Stream(source_ids, packed(source_lengths, 8)) if both else None
    together = logits_of(model, Stream(ids, packed(lengths, 10)), source)
    start = source_start = 0
    for length, source_length in zip(lengths, source_lengths, strict=True):
        source = stream(source_ids[:, source_start : source_start + source_length]) if both else None
        alone = logits_of(model, stream(ids[:, start : start + length]), source)
        torch.testing.assert_close(together[:, start : start + length], alone, **CLOSE)
        start, source_start = start + length, source_start + source_length


@pytest.mark.parametrize("windowed_layers", [(0,), (1,), None, ()])
def test_only_layers_with_a_window_forget_what_is_far(windowed_layers):
    """With every layer windowed, what a token says of its past reaches back (window − 1) places a layer."""
    model = build("decoder", "pre-norm rotary grouped q/k-norm gated", window=3, windowed_layers=windowed_layers)
    ids = tokens(1, 12)
    maps = model.attention_maps(Batch(stream(ids), ids, 12))["decoder"]
    windowed = (0, 1) if windowed_layers is None else windowed_layers
    for layer, weights in enumerate(maps):
        far = weights.tril(-3)
        assert bool((far == 0).all()) == (layer in windowed)
    changed = ids.clone()
    changed[:, 0] = 3 if int(ids[0, 0]) != 3 else 4
    difference = (logits_of(model, stream(changed)) - logits_of(model, stream(ids))).detach().abs().amax(dim=(0, 2))
    reach = 5 if len(windowed) == 2 else 12
    assert bool((difference[:reach] > 0).all())
    assert float(difference[reach:].sum()) == 0.0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
def test_both_cores_train_alike(family, variant):
    results = []
    for core in (reference_attention, fused_attention):
        model = build(family, variant, attention_soft_cap=None)  # for which there is but one core
        for module in model.modules():
            if isinstance(module, Attention):
                module.core = core
        source = stream(tokens(2, 6, seed=5), [6, 4]) if family == "encoder-decoder" else None
        logits = model(Batch(stream(tokens(2, 9), [9, 6]), tokens(2, 9), 18, source=source))
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 10
    for reference, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_the_cache_gives_what_a_full_forward_gives(family, variant):
    model = build(family, variant)
    ids = tokens(2, 9)
    source = stream(tokens(2, 6, seed=5), [6, 4]) if family == "encoder-decoder" else None
    full = logits_of(model, stream(ids), source)
    cache = model.new_cache()
    memory = None if source is None else model.encode(source)
    found = []
    for start, end in [(0, 3), (3, 4), (4, 5), (5, 7), (7, 8), (8, 9)]:
        piece = ids[:, start:end]
        hidden = model.hidden(
            Stream(piece, Layout.whole(piece, start)),
            memory=memory if start == 0 else None,
            memory_layout=None if source is None else source.layout,
            cache=cache,
        )
        found.append(model.logits(hidden))
    torch.testing.assert_close(torch.cat(found, dim=1), full, **CLOSE)


def test_prompts_of_different_length_share_a_cache():
    model = build("decoder", "pre-norm rotary grouped q/k-norm gated")
    ids = tokens(2, 8)
    lengths = [6, 3]
    cache = model.new_cache()
    prompt = stream(ids[:, :6], lengths)
    model.hidden(prompt, cache=cache)
    for step in range(2):
        positions = torch.tensor(lengths)[:, None] + step
        new = ids.gather(1, positions)
        hidden = model.hidden(Stream(new, Layout(positions, torch.ones_like(new), padded=False)), cache=cache)
        for row, length in enumerate(lengths):
            alone = model.hidden(stream(ids[row : row + 1, : length + step + 1]))
            torch.testing.assert_close(hidden[row, 0], alone[0, -1], **CLOSE)


def test_selecting_rows_of_the_cache_follows_the_beams():
    model = build("encoder-decoder", "post-norm sinusoidal")
    ids, source = tokens(3, 5), stream(tokens(3, 6, seed=5), [6, 4, 5])
    memory, cache = model.encode(source), model.new_cache()
    model.hidden(stream(ids[:, :4]), memory=memory, memory_layout=source.layout, cache=cache)
    rows = torch.tensor([2, 0, 2])
    cache.select(rows)
    hidden = model.hidden(
        Stream(ids[rows, 4:], Layout.whole(ids[rows, 4:], 4)), memory_layout=source.layout.rows(rows), cache=cache
    )
    full = model.hidden(stream(ids), memory=memory, memory_layout=source.layout)
    torch.testing.assert_close(hidden[:, 0], full[rows, 4], **CLOSE)


@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
def test_forward_scores_only_the_asked_positions(family):
    model = build(family, "post-norm sinusoidal")
    text = stream(tokens(2, 6), [6, 4])
    source = stream(tokens(2, 3, seed=5)) if family == "encoder-decoder" else None
    targets = torch.full((2, 6), IGNORED)
    targets[0, 1], targets[1, 3] = 7, 8
    found = model(Batch(text, targets, 2, source=source))
    every = logits_of(model, text, source)
    torch.testing.assert_close(found, torch.stack([every[0, 1], every[1, 3]]), **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_maps_are_distributions_and_do_not_change_the_answer(variant):
    model = build("encoder-decoder", variant)
    text, source = stream(tokens(2, 5), [5, 3]), stream(tokens(2, 6, seed=5), [4, 6])
    maps = model.attention_maps(Batch(text, text.tokens, 8, source=source))
    assert {name: len(layers) for name, layers in maps.items()} == {"encoder": 2, "decoder": 2, "cross": 2}
    for layers in maps.values():
        for weights in layers:
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)), **CLOSE)
    assert float(maps["cross"][0][0, :, :, 4:].abs().max()) == 0.0
    assert float(maps["decoder"][0].triu(1).abs().max()) == 0.0


def test_every_parameter_has_exactly_one_role():
    for variant in VARIANTS:
        model = build("encoder-decoder", variant)
        grouped = [id(p) for group in model.parameter_groups().values() for p in group]
        assert sorted(grouped) == sorted(map(id, model.parameters()))
        assert all(p.ndim == 2 for p in model.parameter_groups()["hidden"])


def test_every_parameter_of_every_preset_gets_a_gradient():
    for preset in ("vaswani-2017", "modern-seq2seq"):
        config = ModelSettings(preset=preset, d_model=64, n_layers=2, dropout=0.0).build(
            30, pad_id=0, bos_id=1, eos_id=2
        )
        model = Transformer(config)
        initialise(model, scheme="xavier", seed=1)
        text = stream(tokens(2, 5))
        model(Batch(text, text.tokens, 10, source=stream(tokens(2, 4, seed=3)))).square().sum().backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing


def test_vaswani_2017_has_the_sizes_of_the_papers_base_model():
    config = ModelSettings(preset="vaswani-2017").build(37_000, pad_id=0, bos_id=1, eos_id=2)
    with torch.device("meta"):
        model = Transformer(config)
    n_parameters = sum(p.numel() for p in model.parameters())
    assert (config.d_model, config.n_layers, config.decoder_layers, config.n_heads, config.d_ff) == (512, 6, 6, 8, 2048)
    assert config.embedding_scale == pytest.approx(512**0.5)
    assert 60e6 < n_parameters < 66e6  # table 3 says 65 million


def test_initialisation_is_a_function_of_its_seed():
    config = ModelSettings(d_model=64).build(30, pad_id=0, bos_id=1, eos_id=2)
    weights = []
    for seed in (1, 1, 2):
        model = Transformer(config)
        torch.rand(3)
        initialise(model, scheme="zero_output", seed=seed)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_blocks_begin_as_the_identity_under_zero_output():
    model = build("decoder", "pre-norm rotary grouped q/k-norm gated")
    initialise(model, scheme="zero_output", seed=3)
    ids = tokens(1, 5)
    hidden = model.hidden(stream(ids))
    torch.testing.assert_close(hidden, model.main.norm(model.embedding(ids)), **CLOSE)


def test_presets_are_data_that_all_build():
    for preset in PRESETS:
        ModelSettings(preset=preset).build(1000, pad_id=0, bos_id=1, eos_id=2)
    assert ModelSettings(preset="modern-decoder", d_model=128).build(9, pad_id=0).n_kv_heads == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "modern-seq2sec"}, "did you mean modern-seq2seq"),
        ({"d_model": 100, "n_heads": 3}, "not a multiple"),
        ({"preset": "modern-decoder", "n_kv_heads": 3}, "n_kv_heads 3"),
    ],
)
def test_a_model_that_does_not_fit_together_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        ModelSettings(**settings).build(30, pad_id=0, bos_id=1, eos_id=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"windowed_layers": (0,)}, "no model.window"),
        ({"window": 4, "windowed_layers": (0, 2)}, "windowed_layers are 0, 2\nlayers from 0 to 1"),
        ({"window": 4, "windowed_layers": (1, 1)}, "each once"),
        ({"norm_offset": 1.0}, "norm_offset 1.0 is of an RMSNorm"),
        (
            {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_positions": 9, "low": 4.0}},
            "high 4.0 is not above low",
        ),
        (
            {"rope_scaling": {"kind": "yarn", "factor": 8.0, "original_positions": 9}, "rope_base": 1.0},
            "above 1, not 1.0",
        ),
        ({"rope_scaling": {"kind": "dynamic", "factor": 8.0}}, "rope_scaling.*dynamic"),
        ({"attention_soft_cap": 0.0}, "attention_soft_cap.*greater than 0"),
    ],
)
def test_fields_that_contradict_one_another_are_refused(fields, message):
    with pytest.raises(RecipeError, match=message):
        ModelConfig.of({"family": "decoder", "vocab_size": 9, "n_layers": 2, **fields})


def test_norms_with_an_offset_begin_as_one():
    model = build("decoder", "rotary windows here and there, soft caps, offset norms")
    initialise(model, scheme="xavier", seed=1)
    norms = [p for name, p in model.named_parameters() if "norm" in name]
    assert len(norms) == 2 * 6 + 1
    assert all(bool((p == 0).all()) for p in norms)


def test_the_last_cross_attention_can_be_had_in_training_with_its_gradient():
    model = build("encoder-decoder", "post-norm sinusoidal").train()
    batch = Batch(stream(tokens(2, 5)), tokens(2, 5), 10, source=stream(tokens(2, 6, seed=5), [4, 6]))
    found: list[torch.Tensor] = []
    logits = model(batch, last_cross=found)
    torch.testing.assert_close(logits, model(batch), **CLOSE)
    assert len(found) == 1
    torch.testing.assert_close(found[0], model.attention_maps(batch)["cross"][-1], **CLOSE)
    found[0][0, 0, 0, 0].backward()
    assert float(model.decoder.blocks[-1].cross.sublayer.q.weight.grad.abs().max()) > 0
