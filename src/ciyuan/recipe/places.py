"""Where ciyuan keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """CIYUAN_CACHE, or `ciyuan` in the user's cache folder. What lies there may be deleted at any time."""
    given = os.environ.get("CIYUAN_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ciyuan"
