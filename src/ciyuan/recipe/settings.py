"""What a recipe may say, and how one is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from ciyuan.config import Settings, Sheet, build, lay, override, parse_sheet
from ciyuan.data.settings import DataSettings
from ciyuan.errors import RecipeError
from ciyuan.model.config import ModelSettings
from ciyuan.recipe import builtin
from ciyuan.text.settings import TokenizerSettings
from ciyuan.training.settings import TrainingSettings

TaskName = Literal["translate", "causal-lm", "masked-lm", "denoise", "classify", "answer", "chat"]

FAMILIES: dict[TaskName, tuple[str, ...]] = {
    "translate": ("encoder-decoder",),
    "causal-lm": ("decoder",),
    "masked-lm": ("encoder",),
    "denoise": ("encoder-decoder",),
    "classify": ("encoder", "decoder"),
    "answer": ("encoder", "decoder", "encoder-decoder"),
    "chat": ("decoder",),
}
"""Which families can do a task."""

LIMITS = ("steps", "minutes", "tokens")
ASSUMED_VOCABULARY = 8000
"""For whether a model's sizes fit together, which no vocabulary decides."""


class ObjectiveSettings(Settings):
    """What is asked of the model, where its task leaves a choice."""

    mask: Literal["tokens", "words", "spans"] = Field(
        default="words", description="masked-lm: what is masked as a whole; words are segmented in Chinese too"
    )
    mask_rate: float = Field(default=0.15, gt=0, lt=1, description="masked-lm, denoise: share of tokens to restore")
    mask_rate_end: float | None = Field(
        default=None, gt=0, lt=1, description="masked-lm: what mask_rate becomes by the end of the run; null: it stays"
    )
    mean_span: float = Field(default=3.0, ge=1, description="masked-lm by spans, denoise: tokens of a span, on average")
    next_sentence: bool = Field(
        default=False, description="masked-lm: learn with it whether a second text follows the first"
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="classify: balanced gives every label the same weight, however rare"
    )
    stride: int = Field(default=128, ge=1, description="answer: tokens that windows of a long passage share")
    max_answer: int = Field(default=48, ge=1, description="answer: tokens of the longest answer")


class Recipe(Settings):
    """Everything that decides a run, but for the bytes of the data."""

    task: TaskName = Field(description="What the model is to do")
    data: DataSettings = Field(default=DataSettings(), description="What to learn from")
    tokenizer: TokenizerSettings = Field(
        default=TokenizerSettings(), description="How text becomes tokens; or just the path of a tokeniser to use"
    )
    model: ModelSettings = Field(default=ModelSettings(), description="What the model is made of")
    objective: ObjectiveSettings = Field(default=ObjectiveSettings(), description="What the model is asked")
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
    tokens: int | None = None,
    overrides: Sequence[str] = (),
    init: bool = False,
) -> Recipe:
    """A built-in recipe or a YAML file, with what the command line changes. Raises RecipeError that names file, line and key.

    What a file does not say is as in the built-in recipe of its task. data, dev, minutes, tokens: instead of data.train, data.dev,
    training.minutes and training.tokens. overrides: `key=value` texts, the last word. init: a model is given to start from, which
    brings its own sizes and tokeniser, so that those of the built-in recipe do not count.
    """
    sheet = builtin.find_sheet(name)
    if name in builtin.names():  # all of it is what `with_defaults` lays under what the command line says
        sheet = Sheet(name, {"task": sheet.values["task"]}, sheet.places)
    sheet = lay_options(sheet, data=data, dev=dev, minutes=minutes, tokens=tokens, overrides=overrides)
    sheet = with_defaults(sheet, init=init)
    if init:
        for key in ("preset", "size"):
            sheet = lay(sheet, ("model", key), None, place="--init")
    recipe = build(Recipe, sheet)
    if not init:
        _check_model(recipe, sheet)
    return recipe


def _check_model(recipe: Recipe, sheet: Sheet) -> None:
    """What does not fit together is said with its place, before any data is read."""
    try:
        config = recipe.model.build(ASSUMED_VOCABULARY, pad_id=0, bos_id=1, eos_id=2)
    except RecipeError as error:
        key = next((word for word in error.found.split() if word.startswith("model.")), "model")
        where = error.where or sheet.place(tuple(key.split(".")))
        raise RecipeError(error.found, where=where, allowed=error.allowed, fix=error.fix) from None
    if recipe.objective.next_sentence and not config.next_sentence:
        raise RecipeError(
            f"objective.next_sentence asks for a head that model.preset {recipe.model.preset} does not have",
            where=sheet.place(("objective", "next_sentence")), fix="set model.preset to bert-2018",
        )  # fmt: skip
    check_family(recipe, config.family, f"model.preset {recipe.model.preset}", sheet.place(("model", "preset")))


def check_family(recipe: Recipe, family: str, what: str, where: object) -> None:
    """Raises RecipeError where a model of this family cannot do the recipe's task."""
    allowed = FAMILIES[recipe.task]
    if family not in allowed:
        presets = {"encoder": "modern-encoder or bert-2018", "decoder": "modern-decoder or gpt2-2019",
                   "encoder-decoder": "modern-seq2seq or vaswani-2017"}  # fmt: skip
        raise RecipeError(
            f"{what} is {'a' if family == 'decoder' else 'an'} {family}, which is not for the task {recipe.task}",
            where=str(where), fix=f"choose {', '.join(presets[one] for one in allowed)}",
        )  # fmt: skip


def with_defaults(sheet: Sheet, *, init: bool) -> Sheet:
    """The sheet, with the built-in recipe of its task under it, option by option.

    Left out is what would contradict the sheet: the model's other options where it names a preset, the tokeniser's where it names
    one, the limit of training where it sets another; and model and tokeniser where a model to start from brings its own.
    """
    task = sheet.values.get("task")
    if task not in get_args(TaskName):
        return sheet  # refused by `build`, with its place
    base = parse_sheet(builtin.text(str(task)), str(task))
    for section, options in base.values.items():
        own = sheet.values.get(section) or {}
        if not isinstance(options, dict) or not isinstance(own, dict) or _contradicts(section, own, init=init):
            continue
        limited = section == "training" and any(own.get(limit) is not None for limit in LIMITS)
        for key, value in options.items():
            if key not in own and value is not None and not (limited and key in LIMITS):
                sheet = lay(sheet, (section, key), value, place=base.place((section, key)))
    return sheet


def _contradicts(section: str, own: Mapping[str, Any], *, init: bool) -> bool:
    if section == "model":
        return init or own.get("preset") is not None
    return section == "tokenizer" and (init or own.get("path") is not None)


def lay_options(
    sheet: Sheet, *, data: Sequence[str], dev: str | None, minutes: float | None, tokens: int | None, overrides: Sequence[str]
) -> Sheet:  # fmt: skip
    """A sheet with what the command line changes laid over it."""
    if data:
        sheet = lay(sheet, ("data", "train"), list(data), place="--data")
    if dev is not None:
        sheet = lay(sheet, ("data", "dev"), int(dev) if dev.isdecimal() and len(dev) < 12 else dev, place="--dev")
    if minutes is not None:
        sheet = lay(sheet, ("training", "minutes"), minutes, place="--minutes")
    if tokens is not None:
        sheet = lay(sheet, ("training", "tokens"), tokens, place="--tokens")
    return override(sheet, overrides)
