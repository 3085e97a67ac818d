"""The page of a look: all of it is there, and nothing in it runs but its own script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from ciyuan.prediction.look import Guess, Look
from ciyuan.report.look import render_look

HOSTILE = [
    "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!--<script>", "'-alert(1)-'", "{{ 7 * 7 }}",
    "</style>",
    "javascript:alert(1)", "\u2028\u2029\0\ufeff", "<svg/onload=alert(1)>", "]]>", "&lt;b&gt;", "`${alert(1)}`", "\u202eabc",
]  # fmt: skip


class Seen(HTMLParser):
    """Tags, attributes and the text of scripts, as a browser would find them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data


def found(tokens: list[str]) -> Look:
    generator = torch.Generator().manual_seed(0)
    n = len(tokens)
    guesses = tuple(
        Guess(i, ((tokens[-i - 1], 0.5), (token, 0.25)), (token, 0.25, 2) if i else None)
        for i, token in enumerate(tokens)
    )
    maps = {name: torch.rand(2, 3, n, n, generator=generator).softmax(-1) for name in ("encoder", "decoder", "cross")}
    ids = tuple(range(n))
    return Look({"source": tuple(tokens), "text": tuple(tokens)}, {"source": ids, "text": ids}, guesses, maps)


def page(tokens: list[str], name: str = "run", value: str = "5") -> tuple[str, Seen]:
    text = render_look(found(tokens), name=name, facts=[("parameters", "参数量", value)])
    seen = Seen()
    seen.feed(text)
    return text, seen


def test_all_that_was_seen_is_on_the_page() -> None:
    tokens = ["▁dog", "狗", "</s>"]
    _, seen = page(tokens)
    for token in tokens:
        assert token in seen.text
    assert "25.0 %" in seen.text
    data = json.loads(seen.scripts[0])
    assert data["tokens"] == {"source": tokens, "text": tokens}
    weights = found(tokens).maps["cross"]
    kept = torch.frombuffer(bytearray(base64.b64decode(data["maps"]["cross"]["weights"])), dtype=torch.uint8)
    torch.testing.assert_close(kept.view(weights.shape).float() / 255, weights, rtol=0, atol=0.5 / 255 + 1e-6)
    assert (data["maps"]["cross"]["rows"], data["maps"]["cross"]["columns"]) == ("text", "source")


def test_every_heading_is_in_both_languages() -> None:
    text, _ = page(["a"])
    for heading in re.findall(r"<h[123]>.*?</h[123]>", text):
        assert 'lang="en"' in heading
        assert 'lang="zh-Hans"' in heading


def test_nothing_is_loaded_and_only_the_page_s_own_script_may_run() -> None:
    text, seen = page(["a"])
    policy = next(
        attributes["content"] for tag, attributes in seen.tags if "Content-Security-Policy" in attributes.values()
    )
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(seen.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"(src|href)=|url\(|@import|https?:", text)
    script = seen.scripts[1]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function|fetch|XMLHttp|import", script
    )


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_tokens_names_and_values_are_text(payload: str) -> None:
    plain = page(["a", "b"])[1].tags
    _, seen = page([payload, "b"], name=payload, value=payload)
    assert [tag for tag, _ in seen.tags] == [tag for tag, _ in plain]
    assert [sorted(attributes) for _, attributes in seen.tags] == [sorted(attributes) for _, attributes in plain]
    assert len(seen.scripts) == 2
    assert json.loads(seen.scripts[0])["tokens"]["text"][0] == payload
    assert seen.scripts[1] == page(["a", "b"])[1].scripts[1]
