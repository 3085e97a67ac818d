"""The exceptions of ciyuan: one tree, and the exit code each one means on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class CiyuanError(Exception):
    """Whatever ciyuan raises on purpose. On its own it means that the fault is ours."""

    exit_code: ClassVar[int] = 1


class UserError(CiyuanError, ValueError):
    """Something that a user, a file or a request can cause and can mend.

    Says what was found, where, what is allowed and what to do, in at most three lines:

    >>> print(UserError("lr_rate is not an option", where="train.yaml:12", fix="did you mean training.lr?"))
    train.yaml:12: lr_rate is not an option; did you mean training.lr?
    """

    exit_code = 2

    def __init__(self, found: str, *, where: object = None, allowed: str | None = None, fix: str | None = None) -> None:
        """found, where: what, and in which file, line or option. allowed, fix: what would do, and what to type."""
        self.found, self.where, self.allowed, self.fix = found, where, allowed, fix
        head = f"{where}: {found}" if where is not None else found
        if fix is not None and allowed is None and len(head) + len(fix) < 110:
            lines = [f"{head}; {fix}"]
        else:
            lines = [head, *(line for line in (allowed, fix) if line)]
        super().__init__("\n".join(_seen(" ".join(line.split())) for line in lines[:3]))


def _seen(text: str) -> str:
    """Control characters, which names from files may hold, spelt out."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )


class RecipeError(UserError):
    """A settings file or option that cannot be used."""


class DataError(UserError):
    """A data file that cannot be used, named with its line or byte."""


class TokenizerError(UserError):
    """A tokeniser that cannot be trained or loaded, or that belongs to another model."""


class ModelFolderError(UserError):
    """A model folder that is missing, incomplete, damaged or not to be trusted."""


class ExportError(UserError):
    """A model that a format cannot carry, or an export that answers otherwise than its model."""


class CheckpointError(UserError):
    """No whole checkpoint is left, or it belongs to another run."""


class DiskError(UserError):
    """A full or read-only disk, or a folder that is in use."""


class TrainingError(UserError):
    """Training cannot go on: a loss that is not finite, or nothing to learn from."""


class Stopped(CiyuanError):  # noqa: N818  (not an error: what was asked for, done)
    """Training was asked to stop (SIGTERM) and has written a checkpoint."""

    exit_code = 143


def did_you_mean(name: str, choices: Iterable[str]) -> str | None:
    """The closest of choices to a mistyped name, as a question, or None where nothing is close.

    >>> did_you_mean("lr_rate", ["lora", "lr", "steps", "schedule"])
    'did you mean lr?'
    """
    choices = list(choices)
    close = [choice for choice in choices if name.startswith(f"{choice}_")]
    close = close or difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if not close:
        close = [choice for choice in choices if choice.startswith(name) or name.startswith(choice)][:1]
    return f"did you mean {close[0]}?" if close else None
