"""What a report says, and the page that says it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup

from ciyuan.report import charts

LANGUAGES: Mapping[str, tuple[str, str]] = {
    "ar": ("Arabic", "阿拉伯语"), "cs": ("Czech", "捷克语"), "de": ("German", "德语"), "en": ("English", "英语"),
    "es": ("Spanish", "西班牙语"), "fr": ("French", "法语"), "hi": ("Hindi", "印地语"), "it": ("Italian", "意大利语"),
    "ja": ("Japanese", "日语"), "ko": ("Korean", "韩语"), "nl": ("Dutch", "荷兰语"), "no": ("Norwegian", "挪威语"),
    "pl": ("Polish", "波兰语"), "pt": ("Portuguese", "葡萄牙语"), "ru": ("Russian", "俄语"), "sv": ("Swedish", "瑞典语"),
    "th": ("Thai", "泰语"), "tr": ("Turkish", "土耳其语"), "uk": ("Ukrainian", "乌克兰语"), "vi": ("Vietnamese", "越南语"),
    "zh": ("Chinese", "中文"),
}  # fmt: skip

SPELLINGS: Mapping[str, str] = {
    "chrf": "chrF", "chrf++": "chrF++", "bleu": "BLEU", "ter": "TER", "macro_f1": "macro-F1", "micro_f1": "micro-F1", "f1": "F1",
    "exact_match": "exact match", "bits_per_byte": "bits per byte", "masked_accuracy": "masked accuracy",
    "next_sentence_accuracy": "next-sentence accuracy",
}  # fmt: skip
"""Scores as their papers spell them."""

METRICS: Mapping[str, tuple[str, str]] = {
    "chrF": (
        "How many short runs of characters the translation shares with the reference, 0 to 100. Steadier than BLEU on little data.",
        "译文与参考译文共有的字符片段比例，0 到 100；数据少时比 BLEU 更稳定。",
    ),
    "chrF++": ("As chrF, with words counted too.", "与 chrF 相同，另计词。"),
    "BLEU": (
        "How many runs of up to four words (for Chinese, characters) are right, 0 to 100. Compare only equal signatures.",
        "一到四个词（中文为字）连续正确的比例，0 到 100；只有签名相同才可比较。",
    ),
    "accuracy": ("Share of texts with the right label, 0 to 100.", "标签正确的文本所占比例，0 到 100。"),
    "macro-F1": (
        "Mean of the labels' F1, what was missed and what was wrong both counted, 0 to 100. Rare labels count as much as others.",
        "各标签 F1（兼顾漏判与误判）的平均，0 到 100；少见的标签与常见的同等重要。",
    ),
    "exact match": ("Share of answers that are one of the references, word for word.", "与某个参考答案完全一致的比例。"),
    "F1": ("How many words (for Chinese, characters) answer and reference share.", "答案与参考答案共有的词（中文为字）的比例。"),
    "bits per byte": (
        "How many bits each byte of unseen text costs the model, lower is better. Comparable between tokenisers.",
        "模型编码每个字节的未见文本所需的比特数，越低越好；不同分词器之间可以比较。",
    ),
    "perplexity": ("Between how many tokens the model wavers, on average; lower is better. Only comparable under one tokeniser.",
                   "模型平均在多少个词元之间犹豫，越低越好；只有分词器相同才可比较。"),
    "masked accuracy": ("Share of masked tokens that the model restored.", "被遮盖的词元中还原正确的比例。"),
    "next-sentence accuracy": (
        "How often it tells whether a second text follows the first; 50 is chance.",
        "判断第二段是否为下文的正确率；50 为随机水平。",
    ),
}  # fmt: skip

OF_100 = frozenset({"chrF", "chrF++", "BLEU", "accuracy", "macro-F1", "micro-F1", "exact match", "F1", "masked accuracy",
                    "next-sentence accuracy"})  # fmt: skip

REASONS: Mapping[str, str] = {
    "duplicate": "重复",
    "also in dev": "也出现在开发集中",
    "too long": "过长",
    "empty source": "原文为空",
    "empty target": "译文为空",
    "empty text": "文本为空",
    "empty label": "标签为空",
    "no tokens": "没有词元",
    "fuzzy": "模糊匹配",
    "untranslated": "未翻译",
}
"""Why examples are left out, in Chinese; a reason that is not here is shown in English alone."""

MOST_POINTS = 300


Both = tuple[str, str]
"""The same in English and in Chinese."""


@dataclass(frozen=True)
class Wording:
    """What the task decides of the page's words. measured: with %s for how many examples were scored."""

    title: Both
    kind: Both
    measured: Both
    samples: Both
    columns: tuple[Both, Both, Both]
    """Of the samples: what went in, what the model said, what was wanted."""
    languages: tuple[str, str] = ("", "")
    """Codes of what went in and of what came out, for the browser."""
    commands: tuple[str, ...] = ()
    """What to type next, a line each."""
    python: str = ""


@dataclass(frozen=True)
class Confusion:
    """counts[i][j]: texts of label i that were given label j."""

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Score:
    name: str
    value: float
    signature: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Scores on dev at one moment of training. seconds: of training, without evaluations."""

    step: int
    seconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    source: str
    output: str
    reference: str


@dataclass(frozen=True)
class AttentionMap:
    """weights[i][j]: how much output token i looks at source token j; each row sums to 1."""

    source_tokens: Sequence[str]
    output_tokens: Sequence[str]
    weights: Sequence[Sequence[float]]
    layer: int
    head: int
    """Both counted from 1."""


@dataclass(frozen=True)
class Fact:
    """A line of a table, in both languages."""

    english: str
    chinese: str
    value: str


@dataclass(frozen=True)
class Report:
    """Everything on the page, as plain values. name: the run's folder."""

    name: str
    wording: Wording
    created: str
    scores: Sequence[Score] = ()
    scored_on: int = 0
    """Held-out examples that the scores are over."""
    losses: Sequence[tuple[int, float, float]] = ()
    """(step, seconds, training loss in nats per token)"""
    evaluations: Sequence[Evaluation] = ()
    best_step: int | None = None
    watched: str = "chrF"
    """The score by which the best model was kept."""
    steps: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    of_ceiling: float = 0.0
    """Share of the machine's matrix-product speed that was put to use; 0 where it was not measured."""
    ended: str = ""
    """Why training ended."""
    records: int = 0
    examples: int = 0
    held_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    truncated: int = 0
    first_leak: str | None = None
    files: Sequence[str] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    """By part of the model."""
    architecture: Sequence[Fact] = ()
    samples: Sequence[Sample] = ()
    attention: AttentionMap | None = None
    confusion: Confusion | None = None
    warnings: Sequence[str] = ()
    recipe: str = ""
    origin: Sequence[Fact] = ()
    """Versions, command, seed, hashes."""


def render(report: Report) -> str:
    """The page, self-contained: no script, no request, everything that came from outside escaped."""
    return _template().render(
        r=report,
        w=report.wording,
        metrics=METRICS,
        of_100=OF_100,
        with_references=any(sample.reference for sample in report.samples),
        reasons=REASONS,
        loss_chart=_loss_chart(report),
        score_chart=_score_chart(report),
        data_bar=_data_bar(report),
        parameter_bar=charts.bars(
            [(name, n, f"part-{i % 5}") for i, (name, n) in enumerate(report.parameters.items())]
        ),
        attention_map=_attention(report),
        confusion_map=_confusion(report),
    )


def language(code: str) -> tuple[str, str]:
    """English and Chinese name of a language: ("English", "英语") of en, en-GB or en_US; the code itself where unknown."""
    return LANGUAGES.get(code.replace("_", "-").split("-")[0].lower(), (code, code))


def spelt(score: str) -> str:
    return SPELLINGS.get(score, score)


def duration(seconds: float) -> str:
    """
    >>> duration(42), duration(372), duration(8000)
    ('42 s', '6 min 12 s', '2 h 13 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short_duration(seconds: float) -> str:
    """
    >>> short_duration(42), short_duration(361), short_duration(8000)
    ('42 s', '6 min', '2.2 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"


def compact(value: float) -> str:
    """
    >>> compact(950), compact(6512000), compact(21912)
    ('950', '6.5M', '21.9k')
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f}".removesuffix(".0") + unit
    return charts.number(round(value) if abs(value) >= 100 else value)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": charts.number,
        "compact": compact,
        "duration": duration,
        "short_duration": short_duration,
    }
    text = resources.files("ciyuan.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text)


def _loss_chart(report: Report) -> Markup:
    points = [(seconds / 60, loss) for _, seconds, loss in report.losses if math.isfinite(loss)]
    dev = [
        (e.seconds / 60, e.scores["nll"]) for e in report.evaluations if math.isfinite(e.scores.get("nll", math.nan))
    ]
    series = [
        charts.Series("", thinned(points), "faint"),
        charts.Series("train 训练", thinned(smoothed(points)), "first"),
        charts.Series("held out 留出", dev, "second"),
    ]
    return charts.curves(series, x_label="minutes of training · 训练分钟数", y_label="loss")


def _score_chart(report: Report) -> Markup:
    names = [score.name for score in report.scores] or [
        name for e in report.evaluations[:1] for name in e.scores if name != "nll"
    ]
    series = []
    for name, style in zip(names, ("first", "second"), strict=False):
        points = [(e.seconds / 60, e.scores[name]) for e in report.evaluations if name in e.scores]
        best = next(((e.seconds / 60, e.scores[name]) for e in report.evaluations
                     if e.step == report.best_step and name in e.scores), None)  # fmt: skip
        series.append(charts.Series(name, points, style, marked=best if name == report.watched else None))
    return charts.curves(series, x_label="minutes of training · 训练分钟数", y_label="score", from_zero=True)


def _data_bar(report: Report) -> Markup:
    rows = [("learnt from", report.examples, "part-0"), ("held out", report.held_out, "part-1")]
    rows += [(reason, n, "part-dropped") for reason, n in report.dropped.items()]
    return charts.bars([(name, float(n), style) for name, n, style in rows if n])


def _attention(report: Report) -> Markup:
    if report.attention is None:
        return Markup("")
    return charts.heat_map(report.attention.output_tokens, report.attention.source_tokens, report.attention.weights)


def _confusion(report: Report) -> Markup:
    if report.confusion is None:
        return Markup("")
    shares = [[n / max(1, sum(row)) for n in row] for row in report.confusion.counts]
    return charts.heat_map(report.confusion.labels, report.confusion.labels, shares)


def smoothed(points: Sequence[charts.Point], share: float = 0.03) -> list[charts.Point]:
    """A running mean over that share of all points, so that the trend is seen through the noise of single batches."""
    memory = max(1.0, share * len(points))
    result: list[charts.Point] = []
    mean = weight = 0.0
    for x, y in points:
        mean, weight = mean * (1 - 1 / memory) + y, weight * (1 - 1 / memory) + 1
        result.append((x, mean / weight))
    return result


def thinned(points: Sequence[charts.Point], most: int = MOST_POINTS) -> list[charts.Point]:
    """At most so many points, the last among them."""
    stride = max(1, math.ceil(len(points) / most))
    kept = list(points[::stride])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]
