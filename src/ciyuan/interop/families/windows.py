"""Which layers see only a window of the text: layer_types, and what said the same before it."""

from __future__ import annotations

from collections.abc import Iterable

from ciyuan.errors import ModelFolderError
from ciyuan.interop.settings import TheirSettings
from ciyuan.model.config import ModelConfig

WHOLE, WINDOW = "full_attention", "sliding_attention"
"""Their words for a layer that sees the whole text, and for one that sees a window of it."""

MOST_LAYERS = 10_000
"""More than any model has: a file that says so is refused before anything is as long as that."""


def read_layer_types(theirs: TheirSettings, n_layers: int, otherwise: Iterable[int]) -> list[int]:
    """The layers with a window; `otherwise`, where layer_types does not say."""
    kinds = theirs.words("layer_types", (WHOLE, WINDOW), n_layers)
    return list(otherwise) if kinds is None else [i for i, kind in enumerate(kinds) if kind == WINDOW]


def window_fields(windowed: list[int], window: int | None) -> dict[str, object]:
    """The fields of a ModelConfig."""
    return {"window": window, "windowed_layers": tuple(windowed)} if windowed else {"window": None}


def write_layer_types(config: ModelConfig) -> list[str]:
    return [WINDOW if config.has_window(i) else WHOLE for i in range(config.n_layers)]


def read_late_windows(theirs: TheirSettings, n_layers: int) -> dict[str, object]:
    """Qwen's, which the layers from max_window_layers on have, if use_sliding_window."""
    on = theirs.flag("use_sliding_window", False)
    window = theirs.optional("sliding_window", 4096, low=1)
    first = theirs.whole("max_window_layers", 28, low=0)
    there = on and window is not None
    windowed = read_layer_types(theirs, n_layers, range(first, n_layers) if there else ())
    if windowed and not there:
        said = "sliding_window is null" if on else "use_sliding_window is False"
        raise ModelFolderError(f"layer_types names layers with a window, and {said}", where=theirs.where)
    return window_fields(windowed, window)


def write_late_windows(config: ModelConfig) -> dict[str, object]:
    kinds = write_layer_types(config)
    return {
        "layer_types": kinds,
        "use_sliding_window": WINDOW in kinds,
        "sliding_window": config.window if WINDOW in kinds else None,
        "max_window_layers": kinds.index(WINDOW) if WINDOW in kinds else config.n_layers,
    }
