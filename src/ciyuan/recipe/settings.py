"""What a recipe may say, and how one is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from ciyuan.config import Settings, Sheet, build, lay, override
from ciyuan.data.settings import DataSettings
from ciyuan.errors import RecipeError
from ciyuan.model.config import ModelSettings
from ciyuan.recipe.builtin import find_sheet
from ciyuan.text.settings import TokenizerSettings
from ciyuan.training.settings import TrainingSettings


class Recipe(Settings):
    """Everything that decides a run, but for the bytes of the data."""

    task: Literal["translate"] = Field(description="What the model is to do")
    data: DataSettings = Field(default=DataSettings(), description="What to learn from")
    tokenizer: TokenizerSettings = Field(
        default=TokenizerSettings(), description="How text becomes tokens; or just the path of a tokeniser to use"
    )
    model: ModelSettings = Field(default=ModelSettings(), description="What the model is made of")
    training: TrainingSettings = Field(default=TrainingSettings(), description="How to train, and for how long")

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


def read_recipe(
    name: str,
    *,
    data: Sequence[str] = (),
    dev: str | None = None,
    minutes: float | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """A built-in recipe or a YAML file, with what the command line changes. Raises RecipeError that names file, line and key.

    data, dev, minutes: instead of data.train, data.dev and training.minutes. overrides: `key=value` texts, the last word.
    """
    sheet = lay_options(find_sheet(name), data=data, dev=dev, minutes=minutes, overrides=overrides)
    recipe = build(Recipe, sheet)
    try:
        config = recipe.model.build(recipe.tokenizer.vocab_size, pad_id=0, bos_id=1, eos_id=2)
    except RecipeError as error:  # what does not fit together is said with its place, before any data is read
        key = next((word for word in error.found.split() if word.startswith("model.")), "model")
        where = error.where or sheet.place(tuple(key.split(".")))
        raise RecipeError(error.found, where=where, allowed=error.allowed, fix=error.fix) from None
    if config.family != "encoder-decoder":
        raise RecipeError(
            f"model.preset {recipe.model.preset} is a {config.family}, which cannot translate",
            where=sheet.place(("model", "preset")),
            fix="choose modern-seq2seq or vaswani-2017",
        )
    return recipe


def lay_options(
    sheet: Sheet, *, data: Sequence[str], dev: str | None, minutes: float | None, overrides: Sequence[str]
) -> Sheet:
    """A sheet with what the command line changes laid over it."""
    if data:
        sheet = lay(sheet, ("data", "train"), list(data), place="--data")
    if dev is not None:
        sheet = lay(sheet, ("data", "dev"), int(dev) if dev.isdecimal() and len(dev) < 12 else dev, place="--dev")
    if minutes is not None:
        sheet = lay(sheet, ("training", "minutes"), minutes, place="--minutes")
    return override(sheet, overrides)
