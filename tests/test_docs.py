"""The documents keep their word: their snippets run, their links lead somewhere, and both languages say the same."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
PAIRS = [(path, path.with_suffix(".zh.md")) for path in DOCUMENTS if path.with_suffix(".zh.md").exists()]

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A document without its code blocks."""
    return FENCE.sub("", text)


def snippets(text: str) -> str:
    """A document in which only code blocks with prompts are left, each line on the line where it stood."""
    kept = [""] * (text.count("\n") + 1)
    for block in FENCE.finditer(text):
        if ">>> " in block[2]:
            first = text.count("\n", 0, block.start(2))
            kept[first : first + block[2].count("\n")] = block[2].splitlines()
    return "\n".join(kept)


def run(text: str, name: str) -> tuple[int, str]:
    """How many examples were run, all in one namespace, and what was wrong."""
    test = doctest.DocTestParser().get_doctest(snippets(text), {"__name__": "__main__"}, name, name, 0)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    wrong: list[str] = []
    with torch.random.fork_rng(devices=[]):
        runner.run(test, out=wrong.append)
    return len(test.examples), "".join(wrong)


def links(text: str) -> list[tuple[str, str]]:
    """(words, target) of each link, those in code blocks left out."""
    return LINK.findall(prose(text))


def defines(tree: ast.Module, name: str) -> bool:
    """Whether a module defines a name, dotted for what a class holds."""
    body: list[ast.stmt] = tree.body
    for part in name.split("."):
        found = next((node for node in body if part in _names(node)), None)
        if found is None:
            return False
        body = getattr(found, "body", [])
    return True


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets: list[Any] = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def broken(text: str, folder: Path) -> list[str]:
    """Relative links that lead to no file, and code words that the Python file they link to does not define."""
    found = []
    for words, target in links(text):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        file = folder / target.partition("#")[0]
        if not file.exists():
            found.append(f"{target} does not exist")
        elif (name := re.fullmatch(r"`([\w.]+)`", words)) and file.suffix == ".py":
            found += [] if defines(ast.parse(read(file)), name[1]) else [f"{target} does not define {name[1]}"]
    return found


def outline(text: str) -> list[tuple[int, str]]:
    """The level and the number, if any, of each heading."""
    return [(len(marks), number) for marks, number in re.findall(r"^(#+) ([\d.]*)", prose(text), flags=re.MULTILINE)]


def code(text: str) -> list[tuple[str, str]]:
    return FENCE.findall(text)


def targets(text: str) -> list[str]:
    """What a document links to, the Chinese file of a pair counted as the English one."""
    return [target.replace(".zh.md", ".md") for _, target in links(text)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_snippet_prints_what_the_document_says(path: Path):
    _, wrong = run(read(path), path.name)
    assert not wrong, wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_named_functions_exist_in_them(path: Path):
    assert broken(read(path), path.parent) == []


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda path: path.name)
def test_both_languages_have_the_same_headings_links_and_code(english: Path, chinese: Path):
    ours, theirs = read(english), read(chinese)
    assert outline(ours) == outline(theirs)
    assert targets(ours) == targets(theirs)
    assert code(ours) == code(theirs)


def test_every_chinese_document_has_an_english_one():
    for path in DOCUMENTS:
        if path.name.endswith(".zh.md"):
            assert path.with_name(path.name.replace(".zh.md", ".md")) in DOCUMENTS


def test_each_section_of_the_theory_names_its_code_and_runs_it():
    introduction, *sections = re.split(r"^## ", read(ROOT / "docs/theory.md"), flags=re.MULTILINE)
    assert len(sections) == 17
    for section in sections:
        assert any(target.endswith(".py") for _, target in links(section)), section
        assert any(example.want for example in doctest.DocTestParser().get_examples(snippets(section))), section
    assert ">>>" in introduction


# The checks themselves


DOCUMENT = """# Title

Words of [`may_attend`](../src/ciyuan/model/attention.py) and [`Attention.forward`](../src/ciyuan/model/attention.py).

```python
>>> one = 1
>>> one + 1
2
```

```sh
ciyuan recipes
```

```python
>>> one + 41
42
```
"""


def test_a_right_document_passes():
    assert run(DOCUMENT, "right") == (3, "")
    assert broken(DOCUMENT, ROOT / "docs") == []


def test_a_wrong_number_is_found_on_its_line():
    count, wrong = run(DOCUMENT.replace("42\n", "43\n"), "wrong")
    assert count == 3
    assert "line 16, in wrong" in wrong


@pytest.mark.parametrize(
    ("old", "new"),
    [("attention.py", "attentions.py"), ("may_attend", "may_attends"), ("Attention.forward", "Attention.backward")],
)
def test_a_link_to_nothing_is_found(old: str, new: str):
    assert broken(DOCUMENT.replace(old, new), ROOT / "docs")


@pytest.mark.parametrize(
    ("old", "new", "view"),
    [("# Title", "## Title", outline), ("attention.py", "layers.py", targets), ("one + 1", "one + 2", code)],
)
def test_a_difference_between_languages_is_found(old: str, new: str, view: Any):
    assert view(DOCUMENT.replace(old, new)) != view(DOCUMENT)
