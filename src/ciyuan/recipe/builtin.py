"""The recipes that come with ciyuan, and where any other is found. Light: answers before torch is imported."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ciyuan.config import Sheet, parse_sheet, read_sheet
from ciyuan.errors import RecipeError, did_you_mean


def find_sheet(name: str) -> Sheet:
    """The settings of a built-in recipe, or else of the file of that name. Raises RecipeError."""
    if name in names():
        return parse_sheet(text(name), name)
    if not name.endswith((".yaml", ".yml")) and not Path(name).is_file():
        raise RecipeError(
            f"{name} is neither a built-in recipe nor a file",
            allowed=f"built in: {', '.join(names())}",
            fix=did_you_mean(name, names()) or "or give a YAML file",
        )
    return read_sheet(name)


def names() -> list[str]:
    """The recipes that come with ciyuan."""
    folder = resources.files("ciyuan").joinpath("recipes")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def text(name: str) -> str:
    """A built-in recipe as it is written, with its comments. Raises RecipeError for another name."""
    if name not in names():
        raise RecipeError(
            f"{name} is not a built-in recipe",
            allowed=f"built in: {', '.join(names())}",
            fix=did_you_mean(name, names()),
        )
    return resources.files("ciyuan").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")


def description(name: str) -> str:
    """The first line of a built-in recipe."""
    return text(name).split("\n", 1)[0].lstrip("# ")
