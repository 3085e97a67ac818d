"""One tiny trained model, and ways to call the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ciyuan.cli.main import main
from tests.tiny import options, write_pairs


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Call = Callable[..., Answer]


def run(arguments: list[str]) -> int:
    """main, after which the process rounds as before: training has tiny numbers flushed to zero."""
    try:
        return main(arguments)
    finally:
        if "torch" in sys.modules:
            sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIYUAN_CACHE", str(folder))
        patch.delenv("CIYUAN_TRACEBACK", raising=False)
        yield folder


@pytest.fixture
def call(cache: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """`ciyuan ARGUMENTS` in this process; stdin is empty unless given."""

    def calling(*arguments: object, stdin: bytes = b"") -> Answer:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            path = cache / "stdin"
            path.write_bytes(stdin)
            with path.open(encoding="utf-8") as file:
                patch.setattr("sys.stdin", file)
                code = run([str(argument) for argument in arguments])
        found = capfd.readouterr()
        return Answer(code, found.out, found.err)

    return calling


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.tsv")


@pytest.fixture(scope="session")
def trained(cache: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    code = run(
        [
            "train",
            "translate",
            "--data",
            str(pairs),
            "--out",
            str(out),
            *options("training.steps=12", "training.minutes=null"),
        ]
    )
    assert code == 0
    return out
