"""Reversible rename tables: one table both reads another library's weights and writes them.

A rule pairs names, with {stack}, {i} and {p} standing for what differs between repetitions, and may change the tensors in a way
that can be undone. Every key on either side is used exactly once; one that is missing or left over is an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ciyuan.errors import ModelFolderError
from ciyuan.model.transformer import Transformer


class Change(Protocol):
    """What happens to the tensors of a rule on their way, and how it is undone. Works on tensors of any device, meta too."""

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]: ...

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Same:
    """The tensors as they are."""

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return list(ours)

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return list(theirs)


@dataclass(frozen=True)
class Transposed:
    """A matrix stored the other way round: (in, out) in GPT-2's Conv1D. Vectors stay as they are."""

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.t() for tensor in ours]

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.t() for tensor in theirs]


@dataclass(frozen=True)
class Row:
    """Our vector (V,) is their matrix of one row (1, V)."""

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [tensor[None] for tensor in ours]

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [tensor[0] for tensor in theirs]


@dataclass(frozen=True)
class Scaled:
    """Their tensor is ours times a power of two, so that scaling loses no bit."""

    factor: float

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [tensor * self.factor for tensor in ours]

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [tensor / self.factor for tensor in theirs]


@dataclass(frozen=True)
class Merged:
    """Several of our tensors lie one after the other in one of theirs: fused q, k and v. rows: of each of ours."""

    rows: tuple[int, ...]

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(list(ours))]

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return list(torch.split(theirs[0], list(self.rows)))


@dataclass(frozen=True)
class InTurn:
    """One change after the other, on the way to their tensors; backwards on the way to ours."""

    changes: tuple[Change, ...]

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        tensors = list(ours)
        for change in self.changes:
            tensors = change.to_theirs(tensors)
        return tensors

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        tensors = list(theirs)
        for change in reversed(self.changes):
            tensors = change.to_ours(tensors)
        return tensors


@dataclass(frozen=True)
class Copied:
    """They have our tensor several times, and read the first."""

    times: int

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [ours[0].clone() for _ in range(self.times)]

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [theirs[0]]


@dataclass(frozen=True)
class Rule:
    """Names that belong together: {stack} is encoder or decoder, {i} a layer, {p} weight or bias, the same on both sides.

    >>> rule = Rule("{stack}.blocks.{i}.attention.sublayer.q.{p}", "model.{stack}.layers.{i}.self_attn.q_proj.{p}")
    >>> rule.applied("decoder.blocks.11.attention.sublayer.q.bias")
    (('decoder.blocks.11.attention.sublayer.q.bias',), ('model.decoder.layers.11.self_attn.q_proj.bias',))
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    change: Change = Same()

    def applied(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """The names of ours and of theirs of the repetition that begins with our `name`; None where it is not of this rule."""
        ours, theirs = (side if isinstance(side, tuple) else (side,) for side in (self.ours, self.theirs))
        found = _pattern(ours[0]).fullmatch(name)
        if found is None:
            return None
        blanks = found.groupdict()
        return tuple(each.format(**blanks) for each in ours), tuple(each.format(**blanks) for each in theirs)


_BLANKS = {"stack": "encoder|decoder", "i": "0|[1-9][0-9]*", "p": "weight|bias"}


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template)
    for blank, allowed in _BLANKS.items():
        escaped = escaped.replace(rf"\{{{blank}\}}", f"(?P<{blank}>{allowed})", 1)
    return re.compile(escaped)


@dataclass(frozen=True)
class Generated:
    """A tensor of theirs that follows from our model: a table of sines, a copy of a tied matrix.

    Where a file holds it, it must be what `value` computes, within `tolerance`; nothing is written, for nothing is missed.
    """

    theirs: str
    value: Callable[[Transformer], Tensor]
    tolerance: float = 0.0


def copies(*names: str) -> list[Generated]:
    """Tensors of theirs that are our embedding table once more."""
    return [Generated(name, lambda model: model.embedding.weight) for name in names]


@dataclass(frozen=True)
class Pair:
    """One use of a rule: these tensors of ours are those of theirs."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    change: Change


@dataclass(frozen=True)
class Table:
    """A bijection between our parameters and their tensors.

    unused: what their own code ignores, and so do we; {i} and the like stand for any repetition.
    older: from how older files spell a tensor's name to how it is spelt now.
    """

    rules: Sequence[Rule]
    generated: Sequence[Generated] = ()
    unused: Sequence[str] = ()
    older: Callable[[str], str] = lambda name: name

    def pairs(self, ours: Iterable[str]) -> list[Pair]:
        """Every parameter of ours with its tensor of theirs. A key without a rule, or with two, is our fault."""
        names = list(ours)
        pairs: list[Pair] = []
        used: dict[str, int] = dict.fromkeys(names, 0)
        for name in names:
            for rule in self.rules:
                applied = rule.applied(name)
                if applied is not None:
                    pairs.append(Pair(*applied, rule.change))
                    for each in applied[0]:
                        assert each in used, f"{each} is in the table, and the model has no such parameter"
                        used[each] += 1
        wrong = [name for name, times in used.items() if times != 1]
        assert not wrong, f"the table uses {wrong[0]} {used[wrong[0]]} times"
        theirs = [name for pair in pairs for name in pair.theirs]
        assert len(set(theirs)) == len(theirs), "the table writes a tensor twice"
        return pairs

    def to_theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors, by their names."""
        found: dict[str, Tensor] = {}
        for pair in self.pairs(ours):
            found |= zip(pair.theirs, pair.change.to_theirs([ours[name] for name in pair.ours]), strict=True)
        return found

    def to_ours(self, ours: Iterable[str], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our parameters, from their tensors, which `check` has found complete."""
        found: dict[str, Tensor] = {}
        for pair in self.pairs(ours):
            found |= zip(pair.ours, pair.change.to_ours([theirs[name] for name in pair.theirs]), strict=True)
        return found

    def check(self, expected: Iterable[str], found: Iterable[str], where: object) -> None:
        """Raises ModelFolderError, naming the first few, where their tensors are not the expected ones."""
        expected, found = set(expected), set(found)
        missing = sorted(expected - found)
        if missing:
            raise ModelFolderError(f"tensors are missing: {listed(missing)}", where=where, fix="get the whole model")
        unused = [_pattern(template) for template in self.unused]
        extra = sorted(
            name
            for name in found - expected - {each.theirs for each in self.generated}
            if not any(pattern.fullmatch(name) for pattern in unused)
        )
        if extra:
            raise ModelFolderError(
                f"tensors that this kind of model does not have: {listed(extra)}",
                where=where,
                fix="config.json and the weights must be of one model",
            )


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for a message, on one line and not too long."""
    shown = ", ".join(shown_name(name) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def shown_name(name: object) -> str:
    """A name out of a file that nobody vouches for, fit for a terminal.

    >>> shown_name("lm_head.weight")
    'lm_head.weight'
    >>> print(shown_name("red " + chr(27) + "[31m"))
    red \\x1b[31m
    """
    text = ascii(str(name)[:200])[1:-1]
    return text if len(text) <= 80 else text[:79] + "…"
