"""How good translations are: BLEU and chrF with their signatures, and what looks wrong about the outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ciyuan.evaluation.metrics import BleuTokenizer, bleu, check_pairs, chosen_bleu_tokenizer, chrf
from ciyuan.evaluation.overlap import bleu_tally, chrf_tally
from ciyuan.evaluation.scores import Scores

NOTABLE_SHARE = 0.02
"""Of the outputs: below it, empty, copied or ever-repeated ones are not worth a warning."""

PLAUSIBLE_LENGTH = (0.8, 1.25)
"""Characters written per character of reference. Short outputs pay BLEU's brevity penalty, long ones lose precision."""


def evaluate_translation(
    outputs: Sequence[str],
    references: Sequence[str],
    *,
    language: str | None,
    sources: Sequence[str] | None = None,
    tokenizer: BleuTokenizer | None = None,
    force: bool = False,
) -> Scores:
    """BLEU with the tokeniser of the target language, chrF, and warnings. Raises UserError as `metrics.bleu` does.

    sources: where given, outputs that only copy them are counted.
    """
    check_pairs(outputs, references)
    in_words = bleu(outputs, references, language=language, tokenizer=tokenizer, force=force)
    in_characters = chrf(outputs, references)
    return Scores(
        metrics={"bleu": in_words.value, "chrf": in_characters.value},
        signatures={"bleu": in_words.signature, "chrf": in_characters.signature},
        examples=len(outputs),
        warnings=tuple(_warnings(outputs, references, sources)),
        tallies=lambda: {
            "bleu": bleu_tally(outputs, references, tokenizer or chosen_bleu_tokenizer(references, language)),
            "chrf": chrf_tally(outputs, references),
        },
    )


def _warnings(outputs: Sequence[str], references: Sequence[str], sources: Sequence[str] | None) -> list[str]:
    n = len(outputs)
    said = []

    def warn(count: int, what: str) -> None:
        if count > NOTABLE_SHARE * n:
            said.append(f"{count} of {n} outputs ({count / n:.0%}) {what}")

    warn(sum(not output.strip() for output in outputs), "are empty")
    if sources is not None:
        pairs = zip(outputs, sources, references, strict=True)
        copies = sum(output == source != reference for output, source, reference in pairs)
        warn(copies, "only copy their source")
    usual = Counter(output for output in outputs if output.strip())
    if usual:
        output, count = usual.most_common(1)[0]
        expected = sum(reference == output for reference in references)
        if count > max(1, expected):
            warn(count - expected, f"wrongly say the same, {_quoted(output)}")
    written, wanted = sum(map(len, outputs)), sum(map(len, references))
    low, high = PLAUSIBLE_LENGTH
    if wanted and not low <= written / wanted <= high:
        said.append(f"the outputs have {written / wanted:.2f} times as many characters as the references")
    return said


def _quoted(text: str) -> str:
    return f'"{text}"' if len(text) <= 40 else f'"{text[:40]}…"'
