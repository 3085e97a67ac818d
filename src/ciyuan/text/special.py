"""Special tokens by role. A role is what code asks for; the string is only how a vocabulary spells it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

NO_PAD = "no PAD of its own: rows are filled with EOS, and masked by position"
"""What is said of a model whose PAD is another role's token, or that has none."""

Role = Literal["pad", "bos", "eos", "unk", "mask", "cls", "sep"]


@dataclass(frozen=True)
class SpecialTokens:
    """How each role is spelt; None: the tokeniser has no such token. PAD is a token of its own, never another role's: where others
    pad with EOS, there is none here, and rows are filled with what is masked anyway."""

    pad: str | None = "<pad>"
    bos: str | None = "<s>"
    eos: str | None = "</s>"
    unk: str | None = "<unk>"
    mask: str | None = None
    cls: str | None = None
    sep: str | None = None
    extra: tuple[str, ...] = ()
    """Further tokens that only code writes: the markers of a chat, the sentinels of denoising."""

    def __post_init__(self) -> None:
        others = [*(spelling for role, spelling in self.by_role().items() if role != "pad"), *self.extra]
        if self.pad is not None and self.pad in others:
            raise ValueError(f"PAD {self.pad!r} is another role's token too: padding would teach the model that role")

    def by_role(self) -> dict[Role, str]:
        """The roles that exist, in the order of their ids."""
        found: dict[Role, str] = {}
        for field in fields(self):
            spelling = getattr(self, field.name)
            if spelling is not None and field.name != "extra":
                found[field.name] = spelling  # type: ignore[index]
        return found

    def spellings(self) -> list[str]:
        """Each token once, in the order of their ids: the roles', then the further ones."""
        return list(dict.fromkeys([*self.by_role().values(), *self.extra]))


BERT_TOKENS = SpecialTokens(pad="[PAD]", bos=None, eos=None, unk="[UNK]", mask="[MASK]", cls="[CLS]", sep="[SEP]")
"""Devlin et al. 2018: markers at head and tail instead of BOS and EOS."""
