"""The page of `ciyuan inspect MODEL TEXT --html`: tokens, what the model expected, and where each head looked. Offline, closed.

The one script on the page is allowed by its hash, so that nothing that came with a model or a text can run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup
from torch import Tensor

from ciyuan.prediction.look import Look

MAPS: Mapping[str, tuple[str, str, str, str]] = {
    "encoder": ("Encoder", "编码器", "source", "source"),
    "decoder": ("Decoder", "解码器", "text", "text"),
    "cross": ("Cross-attention", "交叉注意力", "text", "source"),
}
"""Names in both languages; whose tokens look, and whose are looked at."""


def render_look(found: Look, *, name: str, facts: Sequence[tuple[str, str, str]]) -> str:
    """The page as text. name: the model's folder. facts: of the model, in English and in Chinese, and their values."""
    only = "source" not in found.tokens
    maps = {
        key: {
            "title": MAPS[key][:2],
            "rows": "text" if only else MAPS[key][2],
            "columns": "text" if only else MAPS[key][3],
            "shape": list(weights.shape),
            "weights": _packed(weights),
        }
        for key, weights in found.maps.items()
    }
    template, script = _template()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        look=found, name=name, facts=facts, masked="decoder" not in found.maps, script=Markup(script), digest=digest,  # noqa: S704  (our own file)
        data={"tokens": found.tokens, "maps": maps},
    )  # fmt: skip


def _packed(weights: Tensor) -> str:
    """(L, H, T, S) weights in base64, a byte each: 255 is all of the attention."""
    return base64.b64encode((weights * 255).round().byte().numpy().tobytes()).decode()


@cache
def _template() -> tuple[jinja2.Template, str]:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = resources.files("ciyuan.report")
    text, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("look.html.j2", "look.js"))
    return environment.from_string(text), script
