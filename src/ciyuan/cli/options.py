"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Adapter = Annotated[
    str | None, typer.Option("--adapter", help="The folder of a low-rank adapter to use with the model.", metavar="DIR")
]
