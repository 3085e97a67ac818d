"""What a run left on the disk and in memory, gathered for its report and its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from ciyuan.config import write_settings
from ciyuan.data import Preflight
from ciyuan.evaluation import Row, Scores
from ciyuan.inspection import architecture, parameters_by_part
from ciyuan.model import Transformer
from ciyuan.objectives import Seq2Seq
from ciyuan.recipe.settings import Recipe
from ciyuan.report import AttentionMap, Evaluation, Fact, Report, Sample, Score, spelt
from ciyuan.text import Tokenizer
from ciyuan.training import RunFolder, TrainingResult

SHOWN = ("chrf", "bleu")
"""Scores that the page shows, in this order."""

ENDED = {
    "steps": "all steps were done",
    "minutes": "the time was up",
    "tokens": "all tokens were read",
    "early stop": "the score had stopped rising",
}


def build_report(
    run: RunFolder,
    recipe: Recipe,
    preflight: Preflight,
    model: Transformer,
    result: TrainingResult,
    scores: Scores | None,
    samples: Sequence[Row],
    attention: AttentionMap | None,
) -> Report:
    """Everything that the page says, the curves from the run's metrics.jsonl."""
    lines = read_metrics(run.metrics)
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    metrics = {name: scores.metrics[name] for name in SHOWN if name in scores.metrics} if scores else {}
    speeds = [line["tokens_per_second"] for line in lines if line.get("tokens_per_second")]
    return Report(
        name=str(run.path),
        source=recipe.data.source or "source",
        target=recipe.data.target or "target",
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        scores=[Score(spelt(name), value, scores.signatures.get(name, "")) for name, value in metrics.items() if scores],
        scored_on=preflight.dev_examples,
        losses=[(line["step"], line["elapsed"], line["loss"]) for line in lines if line.get("loss") is not None],
        evaluations=[
            Evaluation(line["step"], line["elapsed"], {spelt(k): v for k, v in line["scores"].items() if v is not None})
            for line in lines if "scores" in line
        ],
        best_step=result.best_step,
        watched=spelt(next(iter(metrics), "nll")),
        steps=result.steps,
        seconds=result.seconds,
        tokens_per_second=sum(speeds) / len(speeds) if speeds else 0.0,
        ended=ENDED.get(result.stopped_because, result.stopped_because),
        records=preflight.records,
        examples=preflight.examples,
        held_out=preflight.dev_examples,
        dropped=preflight.dropped,
        truncated=preflight.truncated,
        first_leak=preflight.first_leak,
        files=preflight.files,
        tokens=preflight.tokens,
        parameters=parameters_by_part(model),
        architecture=[
            Fact(name.replace("_", " "), ARCHITECTURE.get(name, name), str(value))
            for name, value in architecture(model).items()
        ],
        samples=[Sample(row.source, row.output, row.reference) for row in samples],
        attention=attention,
        warnings=[*preflight.notes, *result.warnings, *(scores.warnings if scores is not None else ())],
        recipe=write_settings(recipe),
        origin=[
            Fact("command", "命令", manifest["command"]),
            Fact("seed", "随机种子", str(manifest["seed"])),
            Fact("data, SHA-256", "数据 SHA-256", manifest["data"]["sha256"]),
            Fact("tokeniser, SHA-256", "分词器 SHA-256", manifest["tokenizer"]),
            Fact("versions", "版本", ", ".join(
                f"{name} {manifest[name]}" for name in ("ciyuan", "torch", "tokenizers", "numpy", "python"))),
            Fact("machine", "机器", f"{manifest['platform']}, {manifest['threads']} threads"),
        ],
    )  # fmt: skip


ARCHITECTURE: Mapping[str, str] = {
    "encoder_layers": "编码器层数",
    "decoder_layers": "解码器层数",
    "d_model": "宽度",
    "n_heads": "注意力头数",
    "n_kv_heads": "键值头数",
    "d_ff": "前馈宽度",
    "activation": "激活函数",
    "norm": "归一化",
    "positions": "位置编码",
    "max_positions": "最大位置",
    "tied": "共享输出词嵌入",
    "dropout": "随机失活",
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a crash left half-written is passed over."""
    found = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


class Attention:
    """What the decoder looks at while it writes a translation."""

    FEWEST, MOST = 6, 18  # tokens a side of a sentence that makes a readable map

    def __init__(self, model: Transformer, tokenizer: Tokenizer, objective: Seq2Seq) -> None:
        self.model, self.tokenizer, self.objective = model, tokenizer, objective

    def of_any(self, translations: Sequence[tuple[str, str]]) -> AttentionMap | None:
        """The map of the first (source, output) of a good length; None where there is none."""
        for source, output in translations:
            sizes = len(self.tokenizer.encode(source)), len(self.tokenizer.encode(output))
            if all(self.FEWEST <= size <= self.MOST for size in sizes):
                return self.of(source, output)
        return None

    def of(self, source: str, output: str) -> AttentionMap:
        """The weights of the head under which most source tokens are, at some moment, what the decoder looks at."""
        device = next(self.model.parameters()).device
        sides = self.tokenizer.encode(source), self.tokenizer.encode(output)
        batch = self.objective.collate([sides]).to(device)
        with torch.inference_mode():
            heads = torch.stack([weights[0] for weights in self.model.attention_maps(batch)["cross"]])  # (L, H, T, S)
        clearness = (
            heads.amax(dim=2).mean(dim=2).nan_to_num()
        )  # (L, H): 1 where each source token is looked at once, alone
        layer, head = divmod(int(clearness.argmax()), clearness.shape[1])
        end = self.tokenizer.token(self.objective.eos_id)
        columns, rows = ([*(self.tokenizer.token(i) for i in ids), end] for ids in sides)
        return AttentionMap(columns, rows, heads[layer, head].tolist(), layer + 1, head + 1)


NEWLINE = "\n"


def write_card(info: Mapping[str, Any], model: Transformer, preflight: Preflight) -> str:
    """The model card, README.md of the model folder."""
    source, target = info["source"], info["target"]
    languages = [language for language in (source, target) if language]
    front = ["---", "library_name: transformers", "pipeline_tag: translation"]
    if languages:
        front += ["language:", *(f"- {json.dumps(language, ensure_ascii=False)}" for language in languages)]
    front += ["tags:", "- ciyuan", "- translation", "---"]
    size = sum(parameter.numel() for parameter in model.parameters())
    scores = [
        f"| {spelt(name)} | {value:.2f} | `{info['signatures'].get(name, '')}` |"
        for name, value in info["scores"].items()
    ]
    table = ["| score | value | signature |", "|---|---|---|", *scores] if scores else ["Not scored yet."]
    files = ", ".join(f"`{Path(file).name}`" for file in preflight.files)
    held_out = f" on {info['scored_on']:,} held-out pairs" if scores else ""
    n_dropped = f"{sum(preflight.dropped.values()):,}"
    body = f"""
# {source or "source"} → {target or "target"}

A translation model of {size:,} parameters, trained by ciyuan {info["ciyuan"]}.

## Scores{held_out}

{NEWLINE.join(table)}

## Data

{preflight.examples:,} pairs of {files}; {n_dropped} dropped, {preflight.dev_examples:,} held out.

## Use

```python
import ciyuan

model = ciyuan.load("THIS FOLDER")
model.translate("…")
```

## Recipe

```yaml
{info["recipe"].rstrip()}
```
"""
    return NEWLINE.join(front) + NEWLINE + body
