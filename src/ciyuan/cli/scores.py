"""Scores as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

FIRST = ("chrf", "bleu")


def score_lines(metrics: Mapping[str, float], signatures: Mapping[str, str]) -> Iterator[str]:
    """A score a line, with the signature that says how it was computed; chrF, by which models are chosen, first."""
    from ciyuan.report import spelt

    for name in sorted(metrics, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        yield f"{spelt(name):<11}{metrics[name]:7.2f}  {signatures.get(name, '')}".rstrip()
