"""What a run left on the disk and in memory, gathered for its report and its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ciyuan.config import write_settings
from ciyuan.data import Preflight
from ciyuan.evaluation import Scores
from ciyuan.inspection import architecture, parameters_by_part
from ciyuan.model import Transformer
from ciyuan.recipe.settings import Recipe
from ciyuan.recipe.tasks import Shown
from ciyuan.report import Evaluation, Fact, Report, Score, Wording, spelt
from ciyuan.training import RunFolder, TrainingResult

SHOWN = (
    "chrf", "bleu", "macro_f1", "accuracy", "micro_f1", "exact_match", "f1", "bits_per_byte", "perplexity", "masked_accuracy",
    "next_sentence_accuracy",
)  # fmt: skip
"""Scores that the page shows, in this order."""
MOST_SHOWN = 2
"""Of them, the first that there are."""

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
    shown: Shown,
    wording: Wording,
) -> Report:
    """Everything that the page says, the curves from the run's metrics.jsonl."""
    lines = read_metrics(run.metrics)
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    found = [name for name in SHOWN if scores is not None and name in scores.metrics][:MOST_SHOWN]
    metrics = {name: scores.metrics[name] for name in found} if scores else {}
    speeds = [line["tokens_per_second"] for line in lines if line.get("tokens_per_second")]
    shares = [line["of_ceiling"] for line in lines if line.get("of_ceiling")]
    return Report(
        name=str(run.path),
        wording=wording,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        scores=[Score(spelt(name), value, scores.signatures.get(name, "")) for name, value in metrics.items() if scores],
        scored_on=scores.examples if scores else 0,
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
        of_ceiling=sum(shares) / len(shares) if shares else 0.0,
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
        samples=shown.samples,
        attention=shown.attention,
        confusion=shown.confusion,
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


NEWLINE = "\n"


PIPELINES: Mapping[str, str] = {
    "translate": "translation", "causal-lm": "text-generation", "chat": "text-generation", "masked-lm": "fill-mask",
    "denoise": "text2text-generation", "classify": "text-classification", "answer": "question-answering",
}  # fmt: skip
"""Our tasks by the names under which model hubs list them."""


def write_card(
    info: Mapping[str, Any], recipe: Recipe, wording: Wording, model: Transformer, preflight: Preflight
) -> str:
    """The model card, README.md of the model folder."""
    languages = [language for language in (recipe.data.source, recipe.data.target) if language]
    front = ["---", "library_name: transformers", f"pipeline_tag: {PIPELINES[recipe.task]}"]
    if languages:
        front += ["language:", *(f"- {json.dumps(language, ensure_ascii=False)}" for language in languages)]
    front += ["tags:", "- ciyuan", f"- {recipe.task}", "---"]
    size = sum(parameter.numel() for parameter in model.parameters())
    scores = [
        f"| {spelt(name)} | {value:.2f} | `{info['signatures'].get(name, '')}` |"
        for name, value in info["scores"].items()
    ]
    table = ["| score | value | signature |", "|---|---|---|", *scores] if scores else ["Not scored yet."]
    files = ", ".join(f"`{Path(file).name}`" for file in preflight.files)
    held_out = f" on {info['scored_on']:,} held-out examples" if scores else ""
    n_dropped = f"{sum(preflight.dropped.values()):,}"
    body = f"""
# {wording.title[0]}

{wording.kind[0]}: ciyuan {info["ciyuan"]}, {size:,} parameters.

## Scores{held_out}

{NEWLINE.join(table)}

## Data

{preflight.examples:,} examples of {files}; {n_dropped} dropped, {preflight.dev_examples:,} held out.

## Use

```python
import ciyuan

model = ciyuan.load("THIS FOLDER")
{wording.python}
```

## Recipe

```yaml
{info["recipe"].rstrip()}
```
"""
    return NEWLINE.join(front) + NEWLINE + body
