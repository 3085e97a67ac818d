"""Groups of commands: of `ciyuan` itself, and of those that have commands of their own."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from ciyuan.errors import UserError, did_you_mean


class Commands(TyperGroup):
    """A group of commands that says which one was meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            known = [command for command in self.list_commands(ctx) if self.get_command(ctx, command) is not None]
            raise UserError(
                f"`{ctx.command_path} {name}` is not a command",
                allowed=f"commands: {', '.join(known)}",
                fix=did_you_mean(name, known),
            )
        return super().resolve_command(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None and option.default is None:
            option.default = False  # to look at a None, typer would load pydantic: half of the time of `ciyuan train --help`
        return option
