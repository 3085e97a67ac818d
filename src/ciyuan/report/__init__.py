"""The report of a run: one page that explains what was trained, on what, how well, and how to use it. Offline, no scripts.

Report (plain values) ── page.html.j2, charts ──> report.html
"""

from __future__ import annotations

from ciyuan.report.page import (
    AttentionMap,
    Confusion,
    Evaluation,
    Fact,
    Report,
    Sample,
    Score,
    Wording,
    language,
    render,
    spelt,
)

__all__ = [
    "AttentionMap", "Confusion", "Evaluation", "Fact", "Report", "Sample", "Score", "Wording", "language", "render", "spelt",
]  # fmt: skip
