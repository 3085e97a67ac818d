from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ciyuan.data.folders import new_folder, saying_disk_errors
from ciyuan.errors import DiskError


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"

    def fail_halfway() -> None:
        with new_folder(final, lambda path: True) as draft:
            (draft / "a").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert list(final.parent.iterdir()) == []
    with new_folder(final, lambda path: True) as draft:
        (draft / "a").write_text("whole")
        assert not final.exists()
    assert [path.name for path in final.parent.iterdir()] == ["final"]
    assert (final / "a").read_text() == "whole"


def test_a_whole_folder_stays_and_a_damaged_one_makes_way(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.mkdir()
    (final / "a").write_text("first")
    for is_whole, expected in ((True, "first"), (False, "second")):
        with new_folder(final, lambda path, answer=is_whole: answer) as draft:
            (draft / "a").write_text("second")
        assert (final / "a").read_text() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_full_disk_is_said_with_path_and_free_bytes(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as error, saying_disk_errors(tmp_path / "x" / "y"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert f"{tmp_path}/x/y: the disk is full" in str(error.value)
    assert "bytes are free" in str(error.value)
    with pytest.raises(OSError, match="unrelated"), saying_disk_errors(tmp_path):
        raise OSError(errno.ENOTCONN, "unrelated")


def test_a_file_in_the_way_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(DiskError, match="a file stands where a folder is needed"):
        with new_folder(tmp_path / "cache" / "final", lambda path: True):
            pass


def test_a_write_beyond_the_limit_leaves_nothing(tmp_path: Path) -> None:
    program = f"""
import resource, signal
from ciyuan.data import TokenStore
from ciyuan.errors import DiskError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    TokenStore.build({str(tmp_path / "store")!r}, {{"text": [[1] * 100_000] * 20}})
except DiskError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "the file is larger than allowed" in done.stdout
    assert list(tmp_path.iterdir()) == []
