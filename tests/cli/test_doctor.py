"""`ciyuan doctor`: a report, a page, a cleaned copy, and an exit code for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.doctor.spoiling import spoil


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.tsv"
    lines = [
        "Opens the dialog for new files.\t打开用于新建文件的对话框。",
        "Choose a printer, then click OK.\t选择打印机，然后点击「确定」。",
        "The grid is shown behind the text.\t网格显示在文字后面。",
        "Each page may have its own border.\t每一页都可以有自己的边框。",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_good_data_is_said_to_be_good(call: Call, good: Path) -> None:
    found = call("doctor", good, "--fail-on", "warning")
    assert found.code == 0
    assert "nothing found" in found.out
    assert "4 pairs en → zh" in found.out
    assert found.err == ""


def test_bad_data_is_named_with_file_line_and_advice_and_ends_in_three(call: Call, tmp_path: Path) -> None:
    spoiled = spoil(tmp_path, 11)
    found = call("doctor", spoiled.path, "--dev", spoiled.dev, "--all")
    assert found.code == 3
    assert found.err == ""
    for kind, line in spoiled.planted.values():
        assert kind == "shifted" or f"{spoiled.path}:{line} " in found.out or f"{spoiled.path}:{line}\n" in found.out, (
            kind,
            line,
        )
    assert "also in the dev file  也出现在开发集中" in found.out
    assert "\x1b" not in found.out
    assert call("doctor", spoiled.path, "--fail-on", "never").code == 0


def test_json_has_every_place(call: Call, tmp_path: Path) -> None:
    spoiled = spoil(tmp_path, 12)
    found = call("doctor", spoiled.path, "--dev", spoiled.dev, "--json")
    assert found.code == 3
    report = json.loads(found.out)
    places = {(group["kind"], place["line"]) for group in report["findings"] for place in group["places"]}
    assert {place for place in spoiled.planted.values() if place[0] != "shifted"} <= places
    assert report["counts"]["error"] == sum(
        group["count"] for group in report["findings"] if group["severity"] == "error"
    )
    assert report["shape"] == "pairs"
    assert report["languages"] == {"source": "en", "target": "zh"}


def test_the_page_is_in_both_languages_and_holds_no_markup_of_the_data(call: Call, tmp_path: Path) -> None:
    path, page = tmp_path / "a.tsv", tmp_path / "a.html"
    path.write_text("<script>alert(1)</script>one\t<b>一\n" * 2 + "two\t\n", encoding="utf-8")
    assert call("doctor", path, "--html", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "exact repetitions" in text
    assert "完全重复" in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    again = call("doctor", path, "--html", page)
    assert again.code == 2
    assert "nothing is overwritten" in again.err


def test_a_cleaned_copy_is_written_once(call: Call, tmp_path: Path) -> None:
    path, out = tmp_path / "a.tsv", tmp_path / "b.tsv"
    path.write_text("one\t一\none\t一\n\ntwo \t二\n", encoding="utf-8")
    found = call("doctor", path, "--fix", out)
    assert found.code == 3
    assert "dropped: exact repetitions" in found.out
    assert out.read_text(encoding="utf-8") == "one\t一\ntwo\t二\n"
    assert call("doctor", out, "--fail-on", "warning").code == 0
    again = call("doctor", path, "--fix", out)
    assert again.code == 2
    assert "nothing is overwritten" in again.err


def test_columns_are_named_as_train_names_them(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "some text", "mark": "a"}\n{"body": "some text", "mark": "b"}\n', encoding="utf-8")
    found = call("doctor", path, "--set", "data.text=body", "--set", "data.label=mark", "--fail-on", "warning")
    assert found.code == 3
    assert "one text, two labels" in found.out
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"task: classify\ndata: {{train: ['{path}'], text: body, label: mark, dev: 0}}\n", encoding="utf-8"
    )
    assert "one text, two labels" in call("doctor", "--recipe", recipe).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no file to look at"),
        (("nowhere.tsv",), "nowhere.tsv: no such file"),
        (("{good}", "--task", "translat"), "did you mean translate?"),
        (("{good}", "--task", "translate", "--recipe", "translate"), "--task and --recipe"),
        (("{good}", "--fail-on", "eror"), "did you mean error?"),
        (("{good}", "--set", "data.sorce=en"), "did you mean data.source?"),
        (("{good}", "--fix", "x.csv"), "allowed: .jsonl or .tsv"),
        (("{good}", "--fix", "/nonexistent/x.tsv"), "no such folder"),
        (("{good}", "--html", "{good}"), "nothing is overwritten"),
        (("{good}", "--tokenizer", "/nonexistent"), "/nonexistent"),
        (("{good}", "--max-length", "0"), "--max-length"),
    ],
)
def test_what_cannot_be_asked_is_explained(call: Call, good: Path, arguments: tuple[str, ...], said: str) -> None:
    found = call("doctor", *(argument.replace("{good}", str(good)) for argument in arguments))
    assert found.code == 2
    assert said in found.err
    assert 1 <= len(found.lines) <= 3


def test_the_machine_is_looked_at(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ciyuan.doctor.machine.SECONDS", 0.01)
    monkeypatch.setattr("ciyuan.doctor.machine.WRITTEN", 2**20)
    found = call("doctor", "machine")
    assert found.code == 0
    assert "← best" in found.out
    assert "fsync" in found.out
    assert "--set training.precision=" in found.out
    machine = json.loads(call("doctor", "machine", "--json").out)
    assert machine["disk"]["broken"] == []
    assert list(tmp_path.iterdir()) == []
