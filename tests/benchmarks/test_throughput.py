"""What the figures of speed are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import throughput
import torch
from throughput import GPT2, speed, step_flops_per_token, table
from torch.utils.flop_counter import FlopCounterMode

from ciyuan.batch import Batch, Layout, Stream
from ciyuan.model.attention import reference_attention
from ciyuan.model.config import ModelSettings
from ciyuan.model.transformer import Transformer


def test_speed_is_that_after_the_warm_up():
    ends = [(1.0, 100), (3.0, 200), (5.5, 300), (6.5, 500), (7.5, 700)]
    assert speed(ends) == {"tokens_per_second": 200.0, "tokens_per_step": 200.0, "steps": 2}


def test_too_few_steps_are_refused():
    with pytest.raises(SystemExit, match="give more --seconds"):
        speed([(1.0, 100), (6.0, 200)])


def test_the_products_that_are_counted_are_those_that_torch_counts():
    width, rows = 32, 2
    case = GPT2.__class__(**{**vars(GPT2), "vocab_size": 500, "d_model": 64, "n_layers": 2, "d_ff": 256})
    config = ModelSettings(preset="gpt2-2019", d_model=64, n_layers=2, n_heads=1, max_positions=width).build(500, pad_id=0)
    model = Transformer(config)
    for block in model.main.blocks:
        block.attention.sublayer.core = reference_attention  # type: ignore[union-attr]  # of which torch counts every product
    tokens = torch.randint(500, (rows, width))
    with FlopCounterMode(display=False) as counter:
        model(Batch(Stream(tokens, Layout.whole(tokens)), tokens, rows * width)).sum().backward()
    void = 3 * case.n_layers * 2 * width * case.d_model  # what causality spares, and the readable core does not
    assert counter.get_total_flops() == rows * width * (step_flops_per_token(case, width) + void)


def test_a_ratio_is_of_neighbouring_runs_and_a_missed_target_is_said():
    rounds = [
        {
            "ours": {"tokens_per_second": speed, "tokens_per_step": 2048, "params": 14_000_000},
            **{side: {"tokens_per_second": speed / 1.2, "tokens_per_step": 2048, "params": 14_000_000} for side in GPT2.peers},
            "ceiling": {"flops": 2 * step_flops_per_token(GPT2) * speed},
            "machine": {"others_share": 0.5},
        }
        for speed in (1000.0, 500.0, 2000.0)
    ]
    text = "\n".join(table("decoder", GPT2, rounds, {"load_before": [0.0]}, ceiling=True))
    assert "| Trainer | 14.00M | 2,048 | 833 (417 to 1,667) | **1.20×** | 1.25, missed |" in text
    assert "**0.50** (0.50 to 0.50); target 0.75, missed" in text
    assert "disturbed" in text


def test_a_vocabulary_is_widened_by_tokens_that_never_occur(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"vocab": {"a": 0, "b": 1}}}', encoding="utf-8")
    throughput.widen(path, 4)
    assert '"b": 1, "[unused2]": 2, "[unused3]": 3' in path.read_text(encoding="utf-8")
