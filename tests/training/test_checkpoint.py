from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from ciyuan.errors import CheckpointError, DiskError
from ciyuan.training import checkpoint
from ciyuan.training.checkpoint import Checkpoints, load

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def tensors(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    many = {f"t.{dtype}": (10 * torch.randn(3, 5, generator=generator)).to(dtype) for dtype in DTYPES}
    odd = {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "turned": torch.randn(4, 6, generator=generator).T}
    return {"weights": {**many, **odd}, "averages": {}, "random": {"cpu": generator.get_state()}}


NUMBERS = {"loss": 0.1 + 0.2, "name": "词元", "none": None, "nested": {"a": [1, 2.5]}}


def save(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    kept = Checkpoints(folder, keep=keep)
    for step in steps:
        kept.save(step, tensors(step), NUMBERS)
    return kept


def test_what_was_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    found = save(tmp_path, 7).latest(pytest.fail)
    assert found is not None
    assert (found.step, found.numbers) == (7, NUMBERS)
    for name, group in tensors(7).items():
        assert group.keys() == found.tensors[name].keys()
        for key, tensor in group.items():
            assert found.tensors[name][key].dtype == tensor.dtype
            assert torch.equal(found.tensors[name][key], tensor)


def test_the_files_are_safetensors_and_json_to_others_too(tmp_path: Path) -> None:
    folder = save(tmp_path, 7).folders()[0]
    assert torch.equal(load_file(folder / "weights.safetensors")["turned"], tensors(7)["weights"]["turned"])
    assert json.loads((folder / "state.json").read_text())["step"] == 7
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors", "averages.safetensors", "random.safetensors", "state.json", "MANIFEST",
    }  # fmt: skip


def test_the_newest_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    kept = save(tmp_path, 8, 9, 10, 100)
    assert [path.name for path in kept.folders()] == ["step-10", "step-100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-100"]


def test_a_second_save_of_a_step_stands_beside_the_first_and_before_it(tmp_path: Path) -> None:
    kept = save(tmp_path, 5, 5)
    kept.save(5, tensors(99), NUMBERS)
    assert [path.name for path in kept.folders()] == ["step-5.1", "step-5.2"]
    found = kept.latest(pytest.fail)
    assert found is not None
    assert torch.equal(found.tensors["weights"]["turned"], tensors(99)["weights"]["turned"])


def test_a_run_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").latest(pytest.fail) is None


DAMAGES = ["flip", "truncate", "lengthen", "remove", "zero page", "swap"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["weights.safetensors", "random.safetensors", "state.json", "MANIFEST"])
def test_damage_is_noticed_named_and_walked_back_from(tmp_path: Path, name: str, damage: str) -> None:
    kept = save(tmp_path, 1, 2)
    file = tmp_path / "step-2" / name
    data = bytearray(file.read_bytes())
    draw = random.Random(f"{name} {damage}")
    if damage == "flip":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif damage == "truncate":
        del data[draw.randrange(len(data)) :]
    elif damage == "lengthen":
        data += b"\n"
    elif damage == "zero page":
        start = draw.randrange(len(data) - 8)
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    if damage == "remove":
        file.unlink()
    elif damage == "swap":
        shutil.copy(tmp_path / "step-1" / name, file)
    else:
        file.write_bytes(data)
    said: list[str] = []
    found = kept.latest(said.append)
    assert found is not None
    assert found.step == 1
    assert len(said) == 1
    assert "step-2" in said[0]
    if damage != "swap" or name != "MANIFEST":
        assert name in said[0]


@given(st.data())
def test_no_flipped_bit_anywhere_is_accepted(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = _one_checkpoint(tmp_path_factory)
    name = data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    whole = (folder / name).read_bytes()
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
    try:
        with pytest.raises(CheckpointError):
            load(folder)
    finally:
        (folder / name).write_bytes(whole)
    load(folder)


def _one_checkpoint(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "flipped"
    if not folder.exists():
        save(folder, 1)
    return folder / "step-1"


def test_a_folder_moved_to_another_step_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-1").rename(tmp_path / "step-9")
    with pytest.raises(CheckpointError, match="step 1"):
        load(tmp_path / "step-9")


def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    import hashlib

    save(tmp_path, 1)
    (tmp_path / "outside").write_bytes(b"")
    lines = f"{hashlib.sha256(b'').hexdigest()} 0 ../outside\n"
    (tmp_path / "step-1" / "MANIFEST").write_text(
        f"{lines}{hashlib.sha256(lines.encode()).hexdigest()} of the lines above\n"
    )
    with pytest.raises(CheckpointError, match="outside"):
        load(tmp_path / "step-1")


def test_if_all_are_damaged_that_is_said(tmp_path: Path) -> None:
    kept = save(tmp_path, 1, 2)
    for path in kept.folders():
        (path / "MANIFEST").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        kept.latest(lambda text: None)


def test_a_damaged_checkpoint_does_not_count_among_those_kept(tmp_path: Path) -> None:
    kept = save(tmp_path, 1, 2)
    (tmp_path / "step-2" / "state.json").unlink()
    kept.latest(lambda text: None)
    kept.save(2, tensors(), NUMBERS)
    assert [path.name for path in kept.folders()] == ["step-1", "step-2.1"]


class Killed(BaseException):
    pass


def calls_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, error: BaseException) -> int:
    """Save step 2 after step 1 while the fail_at-th fsync or rename fails. Returns how many of them there were."""
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == fail_at:
                raise error
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", counted(checkpoint.os.fsync))
        patch.setattr(Path, "rename", counted(Path.rename))
        kept = Checkpoints(tmp_path, keep=1)
        kept.save(2, tensors(2), NUMBERS)
    return count


def test_whatever_call_of_a_save_fails_a_whole_checkpoint_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "counted", 1)
    total = calls_of_a_save(tmp_path / "counted", monkeypatch, -1, Killed())
    assert total >= 8
    for error in (Killed(), OSError(errno.ENOSPC, "no space"), OSError(errno.EIO, "broken")):
        for fail_at in range(1, total + 1):
            folder = tmp_path / f"{type(error).__name__}{getattr(error, 'errno', '')}-{fail_at}"
            save(folder, 1)
            with pytest.raises((Killed, DiskError)) as caught:
                calls_of_a_save(folder, monkeypatch, fail_at, error)
            if isinstance(caught.value, DiskError):
                assert str(folder) in str(caught.value)
                assert "free" in str(caught.value)
            kept = Checkpoints(folder)
            kept.sweep()
            found = kept.latest(pytest.fail)
            assert found is not None
            assert found.step in (1, 2)
            assert not list(folder.glob("tmp-*"))


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = save(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskError, match="1,000 are free"):
        kept.save(2, tensors(), NUMBERS)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_numbers_that_json_cannot_hold_are_our_fault_and_leave_nothing(tmp_path: Path) -> None:
    kept = save(tmp_path, 1)
    with pytest.raises(ValueError):
        kept.save(2, tensors(), {"loss": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
