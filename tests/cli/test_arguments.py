"""Arguments that cannot be: exit 2, at most three lines, and what was probably meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ciyuan.cli.main import main
from tests.cli.conftest import Call

HEAVY = (
    "torch",
    "numpy",
    "tokenizers",
    "pyarrow",
    "transformers",
    "pydantic",
    "rich",
    "yaml",
    "jinja2",
    "sacrebleu",
    "tensorboard",
)


def test_help_imports_nothing_heavy() -> None:
    asked = [["--help"], ["train", "--help"], ["recipes", "show", "--help"], ["tokenizer", "train", "--help"]]
    code = (
        f"import sys; from ciyuan.cli.main import main; codes = [main(each) for each in {asked!r}]; "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(max(codes))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert found.stderr.strip() == "[]"
    assert all(
        command in found.stdout for command in ("train", "translate", "evaluate", "inspect", "recipes", "tokenizer")
    )


def test_a_command_of_a_group_that_is_not_known_is_met_with_the_one_meant(call: Call) -> None:
    found = call("tokenizer", "trian")
    assert (found.code, found.lines[0]) == (2, "`ciyuan tokenizer trian` is not a command")
    assert found.lines[-1] == "did you mean train?"


def test_version_is_that_of_the_package(call: Call) -> None:
    import ciyuan

    assert call("--version").out == f"ciyuan {ciyuan.__version__}\n"


def test_no_arguments_at_all_show_the_help(call: Call) -> None:
    found = call()
    assert found.code == 0
    assert found.out == call("--help").out


@pytest.mark.parametrize(
    "command", ["train", "translate", "evaluate", "inspect", "recipes", "recipes show", "tokenizer"]
)
def test_every_command_has_help(call: Call, command: str) -> None:
    found = call(*command.split(), "--help")
    assert found.code == 0
    assert "Usage: ciyuan " + command in found.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("trian", "`ciyuan trian` is not a command"),
        ("trian", "did you mean train?"),
        ("--verson", "`ciyuan` has no option --verson; did you mean --version?"),
        ("recipes shw", "did you mean show?"),
        ("translate m --bean 3", "`ciyuan translate` has no option --bean; did you mean --beam?"),
        ("translate m --beam x", "--beam"),
        ("translate", "MODEL"),
        ("train translate", "--out"),
        ("train translate --out", "--out"),
        ("train translate --out x --minutes soon", "--minutes"),
        ("train a b --out x", "unexpected extra argument"),
        ("evaluate m", "--data"),
        ("recipes schema x", "unexpected extra argument"),
    ],
)
def test_arguments_that_cannot_be_are_explained(call: Call, arguments: str, said: str) -> None:
    found = call(*arguments.split())
    assert found.code == 2
    assert said in found.err
    assert 1 <= len(found.lines) <= 3
    assert found.out == ""


def test_an_error_of_ours_is_short_and_says_how_to_see_more(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> str:
        raise RuntimeError("a wheel\ncame off")

    monkeypatch.setattr("ciyuan.recipe.builtin.text", broken)
    found = call("recipes", "show", "translate")
    assert found.code == 1
    assert "RuntimeError: a wheel came off" in found.err
    assert len(found.lines) == 2
    assert "Traceback" not in found.err
    monkeypatch.setenv("CIYUAN_TRACEBACK", "1")
    assert "Traceback" in call("recipes", "show", "translate").err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 2, "out of memory"),
        (OSError(28, "No space left on device", "/x/y"), 2, "/x/y: the disk is full"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
        (OSError(5, "Input/output error"), 1, "not your fault"),
        (KeyboardInterrupt(), 130, "stopped"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_the_system_refuses_has_its_own_words(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def broken(_name: str) -> str:
        raise error

    monkeypatch.setattr("ciyuan.recipe.builtin.text", broken)
    monkeypatch.setattr("ciyuan.cli.main._abandon_stdout", lambda: None)
    found = call("recipes", "show", "translate")
    assert found.code == code
    assert said in found.err


def test_control_characters_of_names_do_not_reach_the_terminal(call: Call) -> None:
    found = call("train", "\x1b[31mred", "--out", "x")
    assert found.code == 2
    assert "\x1b" not in found.err
    assert "\\x1b[31mred" in found.err


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_waiting_threads_leave_a_laptops_cores_to_others_unless_the_user_decided(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert main(["recipes"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == spins


words = st.one_of(
    st.sampled_from([
        "train", "translate", "evaluate", "inspect", "recipes", "list", "show", "schema", "--help", "--json", "--set", "--data",
        "--out", "--minutes", "--beam", "--input", "--dev", "--init", "--resume", "training.lr=3", "training.lr", "data.dev=-1",
        "=", "-", "--", "", "0", "-1", "1e999", "nan", "/nonexistent/folder", "translate.yaml", "model.d_model=7",
    ]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(words, max_size=6))
def test_any_arguments_end_in_0_or_2(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    code = main(arguments)
    said = capfd.readouterr()
    assert code in (0, 2), (arguments, said.err)
    assert len(said.err.splitlines()) <= 3, (arguments, said.err)
    assert "Traceback" not in said.err
