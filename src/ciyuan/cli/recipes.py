"""`ciyuan recipes`: the built-in recipes, and the schema that all recipes follow."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ciyuan.cli.streams import answer

app = typer.Typer(help="List the built-in recipes, print one, or print the JSON Schema.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        show_list()


@app.command("list")
def show_list(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object: a description by name.")] = False,
) -> None:
    """What can be trained by name."""
    from ciyuan.recipe import builtin

    found = {name: builtin.description(name) for name in builtin.names()}
    if as_json:
        answer(json.dumps(found, ensure_ascii=False))
        return
    width = max(map(len, found))
    for name, description in found.items():
        answer(f"{name:<{width}}  {description}")


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="A built-in recipe.", metavar="NAME")]) -> None:
    """Print a recipe, commented, ready to copy: ciyuan recipes show translate > my.yaml"""
    from ciyuan.recipe import builtin

    answer(builtin.text(name).rstrip("\n"))


@app.command("schema")
def show_schema() -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML."""
    from ciyuan.config import schema
    from ciyuan.recipe.settings import Recipe

    answer(json.dumps(schema(Recipe), ensure_ascii=False, indent=2))
