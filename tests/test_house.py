"""The house keeps its word: what the README types exists, both languages say the same, and no code from data can run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import ciyuan
from torture.x3_source import HARMLESS, PLANTED, dangers

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src/ciyuan").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
READMES = ("README.md", "README.zh.md")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[str]:
    """The code blocks of a Markdown file, each with its language."""
    return re.findall(r"^```(.*?)^```", read(name), flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of each line that calls ciyuan, without its name."""
    lines = [re.sub(r"^.* \| ", "", line.strip()) for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if re.match(r"(\S*/)?ciyuan ", line)]


# The papers


def test_both_readmes_have_the_same_headings_code_links_and_open_places():
    english, chinese = (read(name) for name in READMES)
    for pattern in (r"^#+ ", r"\]\(.*?\)", r"<!--.*?-->", r"^- \*\*"):
        ours, theirs = (re.findall(pattern, text, flags=re.MULTILINE) for text in (english, chinese))
        assert ours == theirs, pattern
    assert blocks("README.md") == blocks("README.zh.md")
    assert len(blocks("README.md")) >= 5


@pytest.mark.parametrize("name", [*READMES, "examples/demo.sh", "examples/demo.yaml"])
def test_every_command_shown_exists_with_its_options(name: str):
    import typer

    from ciyuan.cli.main import app

    root: Any = typer.main.get_command(app)
    text = read(name).replace('"$ciyuan"', "ciyuan").replace("$ciyuan", "ciyuan").replace("#   .venv", ".venv")
    if name.startswith("README"):
        text = "\n".join([*blocks(name), *re.findall(r"`(ciyuan .*?)`", text)])
    found = commands(text)
    assert found
    for words in found:
        command = root.commands[words[0]]
        if getattr(command, "commands", None):
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, words


def test_every_make_target_shown_exists():
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), flags=re.MULTILINE))
    assert {"setup", "demo", "test", "lint", "bench", "torture", "clean"} <= targets
    for name in READMES:
        assert (
            set(re.findall(r"`?\bmake ([a-z]+)", " ".join([*blocks(name), *re.findall("`make .*?`", read(name))])))
            <= targets
        )


def test_links_in_the_readmes_lead_to_files():
    for name in READMES:
        for target in re.findall(r"\]\((.*?)\)", read(name)):
            assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_notice_names_every_bundled_data_file_and_its_licence():
    notice = read("NOTICE")
    data = [path for path in (ROOT / "examples/data").iterdir() if not path.name.startswith("LICENSE")]
    assert data
    for path in data:
        assert f"examples/data/{path.name}" in notice
    for licence in re.findall(r"examples/data/LICENSE\S+", notice):
        assert (ROOT / licence).exists()


def test_the_changelog_starts_with_this_version():
    newest = re.search(r"^## (\S+)", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == ciyuan.__version__


def test_the_constraints_pin_every_requirement_within_its_range():
    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in read("requirements/constraints.txt").splitlines() if "==" in line)
    pins = {re.sub(r"[-_.]+", "-", name).lower(): pin for name, pin in pins.items()}
    extras = PROJECT["project"]["optional-dependencies"]
    for line in [*PROJECT["project"]["dependencies"], *extras["hf"], *extras["dev"]]:
        requirement = Requirement(line)
        if requirement.name != "ciyuan":
            assert requirement.specifier.contains(pins[re.sub(r"[-_.]+", "-", requirement.name).lower()]), line
    assert all("+" not in pin for pin in pins.values()), "a local tag that only one index serves"


# The source


DISTRIBUTIONS = {"yaml": "pyyaml", "llama_cpp": "llama-cpp-python", "lm_eval": "lm-eval"}
"""Where a distribution's name is not its module's."""


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def declared() -> tuple[set[str], set[str]]:
    """What the package needs, and that with the extras that users may choose."""
    name = re.compile(r"[A-Za-z0-9_-]+")
    needs = {name.match(line)[0].lower() for line in PROJECT["project"]["dependencies"]}  # type: ignore[index]
    extras = {group: lines for group, lines in PROJECT["project"]["optional-dependencies"].items() if group != "dev"}
    return needs, needs | {name.match(line)[0].lower() for lines in extras.values() for line in lines}  # type: ignore[index]


def test_every_library_that_the_source_imports_is_declared():
    _, known = declared()
    for path in SOURCES:
        for module in imports(ast.parse(path.read_text(encoding="utf-8"))) - set(sys.stdlib_module_names) - {"ciyuan"}:
            assert DISTRIBUTIONS.get(module, module) in known, f"{path.relative_to(ROOT)} imports {module}"


def test_every_declared_library_is_imported():
    used: set[str] = set()
    for path in SOURCES:
        used |= imports(ast.parse(path.read_text(encoding="utf-8")))
    needs, _ = declared()
    assert needs - {DISTRIBUTIONS.get(module, module) for module in used} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_source_can_run_code_from_data(path: Path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("source", PLANTED)
def test_the_source_gate_catches_what_it_is_for(source: str):
    assert dangers(source)


def test_the_source_gate_lets_the_rest_pass():
    assert dangers(HARMLESS) == []


# What is installed


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "src/ciyuan").rglob("*.yaml")), ROOT / "examples/demo.yaml"], ids=lambda p: p.name
)
def test_every_recipe_is_a_mapping_with_a_task(path: Path):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(recipe["task"], str)


def test_the_data_of_the_demonstration_is_there():
    recipe = yaml.safe_load(read("examples/demo.yaml"))
    for name in recipe["data"]["train"]:
        assert (ROOT / name).is_file()


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    assert version("ciyuan") == ciyuan.__version__


@pytest.mark.parametrize("program", ["benchmarks/translation.py", "benchmarks/peers/marian.py"])
def test_the_benchmark_explains_itself(program: str):
    done = subprocess.run([sys.executable, ROOT / program, "--help"], capture_output=True, text=True, check=True)
    assert "--minutes" in done.stdout


def test_every_file_of_the_package_that_is_not_python_is_installed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["ciyuan"]
    ends = {pattern.rpartition("*")[2] for pattern in patterns}
    for path in (ROOT / "src/ciyuan").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(path.name.endswith(end) for end in ends), path


# The demonstration


def demo(folder: Path, **environment: str) -> list[str]:
    """What examples/demo.sh has ciyuan do, ciyuan being a stand-in that leaves a report unless HALF is set."""
    stand_in = folder / "ciyuan"
    stand_in.write_text(
        '#!/bin/sh\necho "$1" $(case "$*" in *--resume*) echo --resume;; esac) >> "$CALLS"\n'
        '[ "$1" != train ] || { mkdir -p "$OUT"; [ -n "$HALF" ] || touch "$OUT/report.html"; }\n'
    )
    stand_in.chmod(0o755)
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    own = {"CIYUAN": str(stand_in), "OUT": str(folder / "demo"), "CALLS": str(calls), "HALF": "", "AGAIN": ""}
    done = subprocess.run(
        ["sh", ROOT / "examples/demo.sh"],
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{folder}/demo/report.html" in done.stdout
    return calls.read_text().split("\n")[:-1]


def test_the_demo_trains_then_goes_on_then_shows_what_is_there_then_keeps_it_aside(tmp_path: Path):
    assert demo(tmp_path, HALF="1") == ["train", "evaluate"]
    assert demo(tmp_path) == ["train --resume", "evaluate"]
    assert demo(tmp_path) == ["evaluate"]
    (tmp_path / "demo/precious").touch()
    assert demo(tmp_path, AGAIN="1") == ["train", "evaluate"]
    assert (tmp_path / "demo-1/precious").exists()


def test_setup_names_the_python_that_is_too_old(tmp_path: Path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.18" && exit 0\nexit 1\n')
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text(read("Makefile"))
    done = subprocess.run(
        ["make", "-s", "-C", tmp_path, ".venv/.python", f"PYTHON={old}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "3.11 or later" in done.stderr
    assert "is Python 3.9.18" in done.stderr
    assert "make setup PYTHON=" in done.stderr
