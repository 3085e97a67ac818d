"""The report is one whole page: it asks for nothing, runs nothing, and shows what it was given as text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from ciyuan.report import AttentionMap, Confusion, Evaluation, Fact, Report, Sample, Score, Wording, charts, render
from ciyuan.report.page import smoothed, thinned

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}{% raw %}</style></title>&"

WORDING = Wording(
    title=("English → Chinese", "英语 → 中文"),
    kind=("A translation model", "翻译模型"),
    measured=("Measured on %s pairs.", "在 %s 对句子上测得。"),
    samples=("Held-out sentences.", "留出的句子。"),
    columns=(("Source", "原文"), ("This model", "本模型"), ("Reference", "参考译文")),
    languages=("en", "zh"),
    commands=("ciyuan translate runs/demo 'Click OK.'",),
    python="import ciyuan",
)
FULL = Report(
    name="runs/demo",
    wording=WORDING,
    created="2026-01-01 12:00",
    scores=[Score("chrF", 24.31, "nrefs:1|case:mixed"), Score("BLEU", 23.5, "nrefs:1|tok:zh")],
    scored_on=300,
    losses=[(step, 0.6 * step, 8 / step + 2) for step in range(1, 600)],
    evaluations=[Evaluation(60 * i, 36.0 * i, {"nll": 3 / i, "chrF": 2.0 * i, "BLEU": 1.5 * i}) for i in range(1, 11)],
    best_step=540,
    steps=599,
    seconds=361.0,
    tokens_per_second=9120.0,
    ended="the time was up",
    records=21912,
    examples=20810,
    held_out=300,
    dropped={"duplicate": 740, "also in dev": 48},
    truncated=3,
    first_leak="help.tsv:1401: Click OK.",
    files=["help.tsv.xz"],
    tokens={"source": 312345, "target": 290888},
    parameters={"embedding": 2048000, "encoder": 2400000, "decoder": 2100000},
    architecture=[Fact("layers", "层数", "3 + 2")],
    samples=[Sample("Click OK.", "点击「确定」。", "单击「确定」。")],
    attention=AttentionMap(["▁Click", "▁OK", "</s>"], ["点击", "</s>"], [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], 2, 3),
    warnings=["dev: 300 instead of 500"],
    recipe="task: translate\n",
    origin=[Fact("seed", "随机种子", "1")],
)
EMPTY = Report(name="runs/none", wording=WORDING, created="2026-01-01")


class Page(HTMLParser):
    """Every tag and attribute of a page, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_all_that_a_run_has_to_say_is_on_the_page() -> None:
    text = Page(render(FULL)).text
    for wanted in (
        "English → Chinese", "英语 → 中文", "24.3", "23.50", "tok:zh", "6 min", "20.8k", "6.5M", "9.1k", "dev: 300 instead of 500",
        "点击「确定」。", "单击「确定」。", "help.tsv:1401: Click OK.", "740", "21,912", "312,345", "3 + 2", "task: translate",
        "ciyuan translate runs/demo", "the time was up", "decoder layer 2, attention head 3",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_a_run_with_nothing_to_show_still_has_a_page() -> None:
    page = Page(render(EMPTY))
    assert "nothing was measured" in page.text
    assert "svg" in page.tags


@pytest.mark.parametrize("report", [FULL, EMPTY])
def test_the_page_loads_and_runs_nothing(report: Report) -> None:
    page = Page(render(report))
    assert not {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "video",
        "audio",
        "use",
        "image",
    } & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "href", "srcset", "action", "xlink:href", "data"), (tag, name, value)
    style = render(report).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in render(report)


def test_every_text_that_comes_from_outside_is_only_text() -> None:
    plain = render(FULL)
    hostile = replace(
        FULL,
        name=HOSTILE, created=HOSTILE,
        wording=Wording((HOSTILE, HOSTILE), (HOSTILE, HOSTILE), ("%s", "%s"), (HOSTILE, HOSTILE), ((HOSTILE, HOSTILE),) * 3,
                        (HOSTILE, HOSTILE), (HOSTILE,), HOSTILE),
        confusion=Confusion([HOSTILE, "b"], [[1, 2], [0, 3]]),
        ended=HOSTILE, first_leak=HOSTILE, files=[HOSTILE],
        scores=[Score(HOSTILE, 1.0, HOSTILE)], dropped={HOSTILE: 3}, tokens={HOSTILE: 4}, parameters={HOSTILE: 5},
        evaluations=[Evaluation(1, 1.0, {HOSTILE: 1.0})], architecture=[Fact(HOSTILE, HOSTILE, HOSTILE)],
        samples=[Sample(HOSTILE, HOSTILE, HOSTILE)], attention=AttentionMap([HOSTILE], [HOSTILE], [[1.0]], 1, 1),
        warnings=[HOSTILE], recipe=HOSTILE, origin=[Fact(HOSTILE, HOSTILE, HOSTILE)],
    )  # fmt: skip
    page = Page(render(hostile))
    assert set(page.tags) <= set(Page(plain).tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text


@given(st.text(max_size=20))
def test_any_name_of_a_token_can_be_drawn(token: str) -> None:
    drawn = charts.heat_map([token], [token, "b"], [[0.5, float("0.5")]])
    ET.fromstring(drawn)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e9, 1e9)), max_size=30))
def test_any_curve_can_be_drawn_inside_its_frame(points: list[tuple[float, float]]) -> None:
    drawn = charts.curves([charts.Series("a", sorted(points))], x_label="x", y_label="y")
    if not points:
        assert drawn == Markup("")
        return
    ET.fromstring(drawn)
    for line in re.findall(r'<polyline[^>]*points="([^"]*)"', drawn):
        for pair in line.split():
            x, y = map(float, pair.split(","))
            assert charts.LEFT - 0.1 <= x <= charts.WIDTH - charts.RIGHT + 0.1
            assert charts.TOP - 0.1 <= y <= charts.HEIGHT - charts.BOTTOM + 0.1


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_enclose_what_they_are_for(low: float, width: float) -> None:
    ticks = charts.ticks(low, low + width)
    assert ticks[0] <= low + 1e-6 * max(1, abs(low))
    assert ticks[-1] >= low + width - 1e-6 * max(1, abs(low + width))
    assert 2 <= len(ticks) <= 12


def test_a_long_curve_is_thinned_to_its_end() -> None:
    points = [(float(i), 1.0) for i in range(10_001)]
    assert len(thinned(points)) <= 301
    assert thinned(points)[-1] == points[-1]
    assert smoothed(points)[-1] == (10_000.0, pytest.approx(1.0))


def test_the_best_model_is_marked_on_the_curve_it_was_chosen_by() -> None:
    assert render(FULL).count('class="ring') == 1
