"""Scores as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

FIRST = ("chrf", "bleu", "macro_f1", "exact_match", "f1", "bits_per_byte", "masked_accuracy")


def score_lines(metrics: Mapping[str, float], signatures: Mapping[str, str]) -> Iterator[str]:
    """A score a line, with the signature that says how it was computed; chrF, by which models are chosen, first."""
    from ciyuan.report import spelt

    width = max([10, *(len(spelt(name)) for name in metrics)])
    for name in sorted(metrics, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        yield f"{spelt(name):<{width}}{metrics[name]:8.{3 if name == 'bits_per_byte' else 2}f}  {signatures.get(name, '')}".rstrip()
