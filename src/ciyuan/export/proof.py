"""Whether an export answers as its model does: ids, logits and greedy text, each compared, each difference named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ciyuan.export.probe import Array, Probe, next_logits, our_outputs, our_text
from ciyuan.generation.decoding import forbidden_tokens
from ciyuan.interop.mapping import shown_name
from ciyuan.interop.runners.process import Answers
from ciyuan.model.transformer import Transformer
from ciyuan.text import Tokenizer

Measure = Literal["largest difference", "root mean square"]

RULES = {
    "ids": "equal, with and without special tokens",
    "logits": "differences over the standard deviation of our own: the largest is at most the tolerance; of an export with fewer "
    "bits, where single logits go astray, their root mean square is",
    "greedy": "equal ids; where they first differ, our two logits are nearer than twice the tolerance (a tie, which is listed)",
    "text": "their reading of their ids is ours of the same ids",
}


@dataclass
class Proof:
    """What was compared, as values for the report. differences: each in words, the first the one to begin with."""

    differences: list[str] = field(default_factory=list)
    compared: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not self.differences


@dataclass(frozen=True)
class Tolerance:
    """How far apart two answers may be, in standard deviations of ours, and by which measure."""

    most: float
    measure: Measure = "largest difference"


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
    comparison.text(room=2 * tolerance.most * max(spreads))
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
        for i, mine in enumerate(ours):
            other = self._theirs(name, i, mine, numbers[i])
            if other is None:
                return spread
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
        self.proof.compared[name] = {
            "compared": count, **{measure: _finite(size) for measure, size in sizes.items()},
            "our standard deviation": _finite(spread), "measure": self.tolerance.measure, "relative": _finite(relative),
            "tolerance": self.tolerance.most, "largest at": place,
        }  # fmt: skip
        if not relative <= self.tolerance.most:
            mine, other = ours[i][index], self.theirs.arrays[f"{name}.{i}"][index]
            self.proof.differences.append(
                f"{place}: {mine:.5g} for us, {other:.5g} there; the {self.tolerance.measure} is {relative:.2g} standard "
                f"deviations, where {self.tolerance.most:g} is allowed"
            )
        return spread

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
            told = (
                f"greedy text {after}: token {place} is {self._token(us)} for us, {self._token(them)} there; "
                f"our logits of them are {gap:.3g} apart"
            )
            (ties if abs(gap) <= room else self.proof.differences).append(told)
        if ours:
            self.proof.compared["greedy text"] = {
                "equal": equal, "of": len(ours), "ties": ties, "ours": [self.tokenizer.decode(ids) for ids in ours],
                "theirs": list(texts),
            }  # fmt: skip

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
