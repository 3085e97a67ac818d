"""`ciyuan inspect --html` and `--length`: a page is written once, and what makes no sense is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Call


def test_a_page_is_written_and_never_over_another(trained: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    done = call("inspect", trained, "red dog", "--html", path, "--target", "红狗", "--top", 2)
    assert (done.code, done.out) == (0, "")
    page = path.read_text(encoding="utf-8")
    assert page.count('<span class="candidate') == 2 * page.count("<tr>") - 2  # a row of the table is its heading
    assert call("inspect", trained, "red dog", "--html", path).code == 2
    assert path.read_text(encoding="utf-8") == page
    assert call("inspect", trained, "red dog", "--html", "-").out.startswith("<!doctype html>")


def test_memory_is_told_for_a_length(trained: Path, call: Call) -> None:
    found = json.loads(call("inspect", trained, "--length", 8, "--dtype", "bf16", "--json").out)["memory_at"]
    assert (found["length"], found["dtype"]) == (8, "bf16")
    assert found["inference"] > found["cache"] > 0
    assert "at 8 tokens in fp32" in call("inspect", trained, "--length", 8).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "--html", "x.html"], "2 are given"),
        (["--html", "x.html"], "0 are given"),
        (["a", "--target", "b"], "add --html FILE"),
        (["--dtype", "fp8"], "did you mean"),
        (["--length", "100000"], "positions"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], said: str, trained: Path, call: Call) -> None:
    done = call("inspect", trained, *words)
    assert (done.code, said in done.err, len(done.lines) <= 3) == (2, True, True), done.err
