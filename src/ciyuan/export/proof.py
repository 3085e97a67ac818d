"""Whether an export answers as its model does: ids, logits and greedy text, each compared, each difference named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ciyuan.export.predictions import Predictions
from ciyuan.export.probe import Array, Probe, next_logits, our_outputs, our_text
from ciyuan.generation.decoding import forbidden_tokens
from ciyuan.interop.mapping import shown_name
from ciyuan.interop.runners.process import Answers
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer

Measure = Literal["largest difference", "root mean square"]

RULES = {
    "ids": "equal, with and without special tokens",
    "numbers": "differences over the standard deviation of our own: the largest is at most the tolerance",
    "numbers in fewer bits": "likewise their root mean square; of a language model's logits, where single ones go astray, it is "
    "the next token that counts: the mean Kullback-Leibler divergence of theirs from ours is at most the tolerance, and where our "
    "likeliest token leads the second by more than the margin, theirs is the same",
    "greedy": "equal ids; where they first differ, our two logits are no further apart than twice the tolerance, in fewer bits "
    "than the margin (a tie, which is listed)",
    "text": "their reading of their ids is ours of the same ids",
}
DISTRIBUTIONS = ("logits", "written_logits")
"""What says how likely each next token is, where the head is a language model's."""


@dataclass
class Proof:
    """What was compared, as values for the report. differences: each in words, the first the one to begin with."""

    differences: list[str] = field(default_factory=list)
    compared: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not self.differences


@dataclass(frozen=True)
class NextToken:
    """How far two predictions may be apart. divergence: their mean, in nats. margin: the lead, in nats, of a token that must be the
    likeliest there too."""

    divergence: float
    margin: float


@dataclass(frozen=True)
class Tolerance:
    """How far apart two answers may be, in standard deviations of ours, and by which measure. why: where the difference comes from.
    next_token: by what a language model's logits are judged instead; None where no bits were saved."""

    most: float
    measure: Measure = "largest difference"
    next_token: NextToken | None = None
    why: str = ""


def prove(
    model: Transformer,
    tokenizer: Tokenizer,
    probe: Probe,
    theirs: Answers,
    *,
    outputs: Sequence[str],
    tolerance: Tolerance,
) -> Proof:
    """Compare a runtime's answers with the model's. outputs: the names of what it was asked for."""
    proof = Proof([f"the runtime says of the weights: {problem}" for problem in theirs.values["problems"]])
    comparison = _Comparison(proof, model, tokenizer, probe, theirs, tolerance)
    comparison.ids()
    ours = our_outputs(model, probe, outputs)
    if "written_logits" in outputs:
        steps = [len(theirs.arrays.get(f"written_logits.{i}", ())) for i in range(len(probe.prompts))]
        ours["written_logits"] = [
            next_logits(model, prompt, ids)[
                : max(len(ids), n_steps)
            ]  # those that chose EOS may be among theirs, or not
            for prompt, ids, n_steps in zip(probe.prompts, comparison.written, steps, strict=True)
        ]
    spreads = [comparison.numbers(name, ours[name]) for name in outputs]
    near = 2 * tolerance.most * max(spreads) if tolerance.next_token is None else tolerance.next_token.margin
    comparison.text(room=near)
    return proof


@dataclass(frozen=True)
class _Comparison:
    """One proof under way."""

    proof: Proof
    model: Transformer
    tokenizer: Tokenizer
    probe: Probe
    theirs: Answers
    tolerance: Tolerance

    @property
    def written(self) -> list[list[int]]:
        """Their greedy text."""
        return [list(map(int, ids)) for ids in self.theirs.values["greedy"]]

    def ids(self) -> None:
        texts = self.probe.texts
        framed = self.tokenizer.backend.encode_batch(list(texts))
        ours = {"ids": self.tokenizer.encode_batch(texts), "framed": [encoding.ids for encoding in framed]}
        for kind, rows in ours.items():
            found = self.theirs.values[kind]
            if found is None:  # a runtime that puts no special tokens around a text
                continue
            different = [i for i, (mine, other) in enumerate(zip(rows, found, strict=True)) if mine != other]
            name = "ids of texts" if kind == "ids" else "ids with special tokens"
            self.proof.compared[name] = {"equal": len(rows) - len(different), "of": len(rows)}
            for i in different[:1]:
                place = _first_difference(rows[i], found[i])
                mine, other = (str(ids[place]) if place < len(ids) else "missing" for ids in (rows[i], found[i]))
                self.proof.differences.append(
                    f"{name}: token {place} of {self._text(i)} is {mine} for us, {other} there"
                )

    def numbers(self, name: str, ours: Sequence[Array]) -> float:
        """Compare one output; the standard deviation of ours."""
        numbers = self.probe.prompted if name == "written_logits" else self.probe.numbers
        spread = max(float(np.concatenate([each.ravel() for each in ours]).std()), 1e-6)
        worst, where, squares, count = 0.0, (0, 0), 0.0, 0
        predicts = name in DISTRIBUTIONS and self.model.head is not None and self.tolerance.next_token is not None
        predictions = Predictions()
        for i, mine in enumerate(ours):
            other = self._theirs(name, i, mine, numbers[i])
            if other is None:
                return spread
            if predicts:
                predictions.add(i, mine, other)
            delta = np.abs(other - mine)
            delta[~np.isfinite(delta)] = np.inf
            squares, count = squares + float(np.square(delta).sum()), count + delta.size
            if delta.size and float(delta.max()) > worst:
                worst, where = float(delta.max()), (i, int(delta.argmax()))
        sizes: dict[Measure, float] = {
            "largest difference": worst,
            "root mean square": (squares / max(count, 1)) ** 0.5,
        }
        relative = sizes[self.tolerance.measure] / spread
        i, flat = where
        index = tuple(map(int, np.unravel_index(flat, ours[i].shape))) if ours[i].size else ()
        place = f"{name} of {self._text(numbers[i])} at {self._place(name, index)}"
        facts: dict[str, Any] = {
            "compared": count, **{measure: _finite(size) for measure, size in sizes.items()},
            "our standard deviation": _finite(spread), "measure": self.tolerance.measure, "relative": _finite(relative),
            "tolerance": self.tolerance.most, "largest at": place,
        }  # fmt: skip
        self.proof.compared[name] = facts
        if predicts:
            del facts["tolerance"]  # it is the next token that is judged
            facts["next token"] = self._next_token(name, predictions, numbers)
        elif not relative <= self.tolerance.most:
            mine, other = ours[i][index], self.theirs.arrays[f"{name}.{i}"][index]
            self.proof.differences.append(
                f"{place}: {mine:.5g} for us, {other:.5g} there; the {self.tolerance.measure} is {relative:.2g} standard "
                f"deviations, where {self.tolerance.most:g} is allowed"
            )
        return spread

    def _next_token(self, name: str, found: Predictions, numbers: Sequence[int]) -> dict[str, Any]:
        """Judge predictions; what the report says of them."""
        allowed, worst = self.tolerance.next_token, found.worst
        assert allowed is not None, "who judges by the next token has been told how"
        if not found.divergence <= allowed.divergence:
            self.proof.differences.append(
                f"{name}: theirs diverge from ours by {found.divergence:.3g} nats on average, where {allowed.divergence:g} are "
                "allowed"
            )
        if worst is not None and worst.margin > allowed.margin:
            self.proof.differences.append(
                f"{name} of {self._text(numbers[worst.row])} at position {worst.position}: {self._token(worst.ours)} is likeliest "
                f"for us by {worst.margin:.3g} nats, {self._token(worst.theirs)} there; {allowed.margin:g} are allowed"
            )
        return {
            "mean divergence": _finite(found.divergence), "divergence allowed": allowed.divergence,
            "same": found.count - len(found.lost), "of": found.count,
            "widest margin lost": None if worst is None else _finite(worst.margin), "margin allowed": allowed.margin,
            "usual margin": _finite(found.usual_margin),
        }  # fmt: skip

    def _theirs(self, name: str, i: int, ours: Array, number: int) -> Array | None:
        """Their answer in float64; None, and a difference noted, where it is missing or of another shape."""
        found = self.theirs.arrays.get(f"{name}.{i}")
        if found is not None and name == "written_logits":
            found = found.reshape(len(found), -1 if found.size else ours.shape[1]).copy()
            never = list(forbidden_tokens(self.model.config))  # they were told so, and hold no logits of it
            if found.shape == ours.shape:
                found[:, never] = ours[:, never]
        if found is not None and found.shape == ours.shape:
            return found.astype(np.float64)
        said = "there is none there" if found is None else f"of shape {ours.shape} for us, {found.shape} there"
        self.proof.differences.append(f"{name} of {self._text(number)}: {said}")
        return None

    def text(self, *, room: float) -> None:
        """Compare greedy text. room: how far apart two of our logits may be for either to be the greedy one there."""
        ours, texts, eos = our_text(self.model, self.probe), self.theirs.values["greedy_text"], self.model.config.eos_id
        equal = 0
        ties: list[str] = []
        gaps: list[float] = []
        for i, (mine, other) in enumerate(zip(ours, self.written, strict=True)):
            after = f"after {self._text(self.probe.prompted[i])}"
            if (said := self.tokenizer.decode(other)) != texts[i]:
                self.proof.differences.append(
                    f"text {after}: the same ids are {_quoted(said)} for us, {_quoted(texts[i])} there"
                )
            if mine == other:
                equal += 1
                continue
            place = _first_difference(mine, other)
            logits = next_logits(self.model, self.probe.prompts[i], mine[:place])[-1]
            us, them = (row[place] if place < len(row) else eos for row in (mine, other))
            assert us is not None
            assert them is not None
            gap = float(logits[us] - logits[them])
            gaps.append(abs(gap))
            told = (
                f"greedy text {after}: token {place} is {self._token(us)} for us, {self._token(them)} there; "
                f"our logits of them are {gap:.3g} apart"
            )
            (ties if abs(gap) <= room else self.proof.differences).append(told)
        if not ours:
            return
        facts: dict[str, Any] = {"equal": equal, "of": len(ours), "ties": ties}
        if gaps:
            facts["margins where texts part"] = {"widest": _finite(max(gaps)), "allowed": _finite(room)}
            facts["usual margin"] = _finite(self._usual_margin(ours))
        facts |= {"ours": [self.tokenizer.decode(ids) for ids in ours], "theirs": list(texts)}
        self.proof.compared["greedy text"] = facts

    def _usual_margin(self, ours: Sequence[Sequence[int]]) -> float:
        """By how many nats the likeliest token leads the second along our greedy text: the median."""
        found = Predictions()
        for row, (prompt, written) in enumerate(zip(self.probe.prompts, ours, strict=True)):
            logits = next_logits(self.model, prompt, written)
            found.add(row, logits, logits)
        return found.usual_margin

    def _text(self, number: int) -> str:
        return f"probe text {number + 1} ({_quoted(self.probe.texts[number])})"

    def _token(self, token: int) -> str:
        return shown_name(self.tokenizer.token(token)) if token < self.tokenizer.vocab_size else str(token)

    def _place(self, name: str, index: tuple[int, ...]) -> str:
        if name in ("logits", "written_logits") and len(index) == 2 and self.model.head is not None:
            return f"position {index[0]}, token {self._token(index[1])}"
        return f"place {', '.join(map(str, index))}"


def _first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (mine, other) in pairs if mine != other), min(len(ours), len(theirs)))


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 24 else text[:23] + "…")


def _finite(value: float) -> float | None:
    """For JSON, which has no infinity."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
