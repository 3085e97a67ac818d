"""Which class of Hugging Face holds a model."""

from __future__ import annotations

from ciyuan.errors import ModelFolderError
from ciyuan.interop.families import FAMILIES, Family
from ciyuan.interop.family import canonical
from ciyuan.model.config import ModelConfig


def family_of(config: ModelConfig) -> Family:
    """The Hugging Face family that holds such a model. Raises ModelFolderError, naming what does not fit the nearest one.

    Worth asking before training: a model that no family holds cannot be saved.
    """
    misfits = {name: family.misfits(config) for name, family in FAMILIES.items()}
    wanted = canonical(config)
    nearest = min(
        misfits,
        key=lambda name: (
            bool(misfits[name]),
            FAMILIES[name].kind != config.family,
            sum(wanted.get(key) != value for key, value in FAMILIES[name].fixed.items()),
        ),
    )
    if misfits[nearest]:
        classes = [name for family in FAMILIES.values() if family.kind == config.family for name in family.classes]
        raise ModelFolderError(
            f"no Hugging Face class holds this model; {FAMILIES[nearest].class_of(config)} comes nearest, but for "
            + ", ".join(misfits[nearest][:4]),
            allowed=f"classes: {', '.join(classes)}",
            fix="start from a preset, and change sizes only",
        )
    return FAMILIES[nearest]


def with_head(
    config: ModelConfig, head: str, *, n_labels: int = 0, next_sentence: bool = False, where: object = None
) -> ModelConfig:
    """The same stacks with another head, and with what a class of their family has around it: BERT's pooler, for instance.

    head: "language-model", "classification", "span" or "none". next_sentence: with that head beside the language-model head.
    Raises ModelFolderError where no class has such stacks and such a head.
    """
    kin = [family for family in FAMILIES.values() if family.kind == config.family]
    nearly: list[ModelConfig] = []
    for family in kin:
        for fields in family.classes.values():
            if fields["head"] == head and fields["next_sentence"] == next_sentence:
                changed = ModelConfig.of({**config.model_dump(), **fields, "n_labels": n_labels})
                if not family.misfits(changed):
                    return changed
                nearly.append(changed)
    for changed in nearly:
        family_of(changed)  # there are such heads, and what keeps these stacks from one is said
    asked = f"{head} head" + (" with one for the next sentence" if next_sentence else "")
    raise ModelFolderError(
        f"no Hugging Face class is a {config.family} with a {asked}", where=where,
        allowed=f"classes: {', '.join(name for family in kin for name in family.classes)}",
    )  # fmt: skip
