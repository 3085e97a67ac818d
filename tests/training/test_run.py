from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from ciyuan.errors import DiskError
from ciyuan.training import RunFolder


def test_a_folder_with_anything_in_it_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DiskError, match=r"(?s)in use: the folder is not empty.*choose another"):
        RunFolder.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_earlier_run_is_pointed_to_resume(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DiskError, match="--resume"):
        RunFolder.open(tmp_path)
    with RunFolder.open(tmp_path, resume=True) as run:
        assert run.path == tmp_path


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(DiskError, match="is a file"):
        RunFolder.open(tmp_path / "x")
    with pytest.raises(DiskError, match="x"):
        RunFolder.open(tmp_path / "x" / "y")


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys, time; from ciyuan.training import RunFolder; "
        "run = RunFolder.open(sys.argv[1]); print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        for resume in (False, True):
            with pytest.raises(DiskError, match="another process"):
                RunFolder.open(tmp_path / "r", resume=resume)
        other.kill()
        other.wait()
        RunFolder.open(tmp_path / "r").close()


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "r") as run:
        run.write("recipe.yaml", "a: 1\n")
        run.write("recipe.yaml", "a: 词元\n")
        run.write_manifest({"seed": 3})
        assert (run.path / "recipe.yaml").read_bytes() == "a: 词元\n".encode()
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "manifest.json", "recipe.yaml"]


def test_a_read_only_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:  # root, who may run the tests, could write anywhere
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DiskError, match="cannot be written to: Read-only"):
        RunFolder.open(tmp_path / "r")
