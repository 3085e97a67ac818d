"""ciyuan (词元): Transformer language models trained on your own text, and put to use.

model = ciyuan.load("runs/demo")
model.translate("Opens the Help menu.")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ciyuan.api import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """torch is imported only when a model is loaded: `import ciyuan` and `ciyuan --help` are light."""
    if name == "load":
        from ciyuan.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
