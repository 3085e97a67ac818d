"""What this machine is worth for training: whether its disk keeps its promises, and which precision and threads pay."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ciyuan.data.folders import saying_disk_errors
from ciyuan.doctor.report import Line
from ciyuan.training.machine import SIZE, product_speed, usable_cores

WRITTEN = 64 * 2**20
"""Bytes by which the disk is timed; less where there is less room."""
SYNCS = 20
RENAMES = 300
SECONDS = 0.4
"""For each precision and number of threads."""
FASTER_THAN_A_DISK = 30e-6
"""Seconds of an fsync that no disk needs so little for."""
FORGETFUL = frozenset({"tmpfs", "ramfs", "devtmpfs"})
REMOTE = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "afs",
        "ceph",
        "lustre",
        "virtiofs",
    }
)


@dataclass(frozen=True)
class Disk:
    """Of the folder's disk. sync: median seconds of an fsync. broken: promises that it did not keep, in words."""

    folder: str
    kind: str
    free: int
    write: float
    """Bytes a second, fsync included."""
    read: float
    """Bytes a second; from the cache, if it holds what was just written."""
    sync: float
    broken: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speed:
    """Of square matrix products. flops: a second."""

    device: str
    precision: str
    threads: int
    flops: float


@dataclass(frozen=True)
class Machine:
    cores: int
    memory: int
    disk: Disk
    speeds: Sequence[Speed]
    seconds: float

    @property
    def best(self) -> Speed:
        """The quickest, the fewest threads among those within a twentieth of it."""
        most = max(speed.flops for speed in self.speeds)
        return min((speed for speed in self.speeds if speed.flops > 0.95 * most), key=lambda speed: speed.threads)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "best": asdict(self.best)}


def probe(folder: Path) -> Machine:
    """Measure, in some ten seconds; what is written to the folder is removed. Raises DiskError where it cannot be written to."""
    began = time.monotonic()
    disk = probe_disk(folder)
    return Machine(usable_cores(), _memory(), disk, list(_speeds()), time.monotonic() - began)


def lines(machine: Machine) -> Iterator[Line]:
    """The outcome for people."""
    disk = machine.disk
    yield [(f"{machine.cores} cores, {machine.memory / 2**30:.0f} GiB of memory", "title")]
    yield []
    yield [("disk    ", "title"), (f"{disk.folder} on {disk.kind}, {disk.free / 2**30:,.1f} GiB free", None)]
    write, read = (f"{speed / 2**20:,.0f} MiB/s" for speed in (disk.write, disk.read))
    yield [(f"        writes {write} to the end, reads {read}, fsync {1000 * disk.sync:.2f} ms", None)]
    for promise in disk.broken:
        yield [("        ", None), (f"broken: {promise}", "error")]
    for doubt in disk.doubts:
        yield [("        ", None), (f"doubtful: {doubt}", "warning")]
    if not disk.broken:
        yield [("        fsync, rename, links and locks do what checkpoints need", "good" if not disk.doubts else None)]
    yield []
    yield [("speed   ", "title"), (f"of {SIZE} × {SIZE} matrix products", None)]
    for speed in machine.speeds:
        threads = (
            f"{speed.threads} thread{'s' if speed.threads > 1 else ' '}" if speed.device == "cpu" else speed.device
        )
        best = "  ← best" if speed == machine.best else ""
        yield [(f"        {speed.precision:<9} {threads:<11} {speed.flops / 1e9:>9,.0f} GFLOP/s", None), (best, "good")]
    best_ = machine.best
    precision = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}[best_.precision]
    device = f"training.threads={best_.threads}" if best_.device == "cpu" else "training.device=cuda"
    yield []
    yield [(f"try --set training.precision={precision} --set {device}", None)]


# --- Disk --------------------------------------------------------------------------------------------------------------


def probe_disk(folder: Path, *, most: int | None = None) -> Disk:
    """Whether what a checkpoint relies on holds in this folder, and how fast it is."""
    with saying_disk_errors(folder), tempfile.TemporaryDirectory(prefix="tmp-doctor-", dir=folder) as name:
        scratch = Path(name)
        free = shutil.disk_usage(scratch).free
        size = min(WRITTEN if most is None else most, free // 4)
        block = os.urandom(2**20)
        began = time.perf_counter()
        with (scratch / "block").open("wb") as stream:
            for _ in range(max(1, size // len(block))):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        written = (scratch / "block").stat().st_size
        write = written / (time.perf_counter() - began)
        began = time.perf_counter()
        with (scratch / "block").open("rb") as stream:
            whole = _reads_back(stream, block)
        read = written / (time.perf_counter() - began)
        sync = statistics.median(_synced(scratch / "small") for _ in range(SYNCS))
        broken = [
            promise
            for promise in (None if whole else "what was written is not what is read", *_promises(scratch))
            if promise
        ]
        kind = file_system(scratch)
        return Disk(str(folder), kind, free, write, read, sync, tuple(broken), tuple(_doubts(kind, sync, free)))


def _reads_back(stream: Any, block: bytes) -> bool:
    while part := stream.read(len(block)):
        if part != block:
            return False
    return True


def _synced(path: Path) -> float:
    with path.open("wb") as stream:
        stream.write(b"x" * 4096)
        stream.flush()
        began = time.perf_counter()
        os.fsync(stream.fileno())
        return time.perf_counter() - began


def _promises(scratch: Path) -> Iterator[str]:
    """Those that are not kept."""
    if not _rename_is_whole(scratch):
        yield "a rename over a file is seen half-done: a killed save could leave no checkpoint"
    try:
        number = os.open(scratch, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if sys.platform != "win32":
            yield f"a folder cannot be fsynced ({error.strerror}): a rename may be lost with the power"
    (scratch / "taken").mkdir()
    (scratch / "taken/file").touch()
    (scratch / "draft").mkdir()
    with suppress(OSError):
        (scratch / "draft").rename(scratch / "taken")
        yield "a folder takes the name of one that is not empty"
    if not _locks(scratch / "lock"):
        yield "locks do not hold: two runs could write into one folder"


def _rename_is_whole(scratch: Path) -> bool:
    """A reader beside the renames always finds the old content or the new, whole."""
    target, stop, torn = scratch / "target", threading.Event(), []
    target.write_bytes(b"0" * 4096)

    def watch() -> None:
        while not stop.is_set():
            try:
                seen = target.read_bytes()
            except OSError:
                seen = b""
            if len(seen) != 4096 or len(set(seen)) != 1:
                torn.append(seen)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for i in range(RENAMES):
            draft = scratch / "draft-file"
            draft.write_bytes(str(i % 10).encode() * 4096)
            draft.replace(target)
    finally:
        stop.set()
        watcher.join()
    return not torn


def _locks(path: Path) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    with path.open("w") as one, path.open("w") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _doubts(kind: str, sync: float, free: int) -> Iterator[str]:
    if kind in FORGETFUL:
        yield f"{kind} lives in memory: all of it is lost with the power"
    elif kind in REMOTE:
        yield f"{kind} is another machine's disk: what fsync means there is for its server to keep"
    elif sync < FASTER_THAN_A_DISK:
        yield f"fsync returns within {1e6 * sync:.0f} µs, sooner than a disk can: with the power, saves may be lost"
    if free < 2 * 2**30:
        yield "less than 2 GiB free: checkpoints of a model take about four times its size each"


def file_system(folder: Path) -> str:
    """What the folder's file system is called: ext4, tmpfs, nfs4 …; "unknown" where the system does not say."""
    with suppress(OSError):
        mounts = [
            line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
        ]
        place = str(folder.resolve())
        over = [(len(mount[1]), mount[2]) for mount in mounts
                if place == mount[1] or place.startswith(mount[1].rstrip("/") + "/")]  # fmt: skip
        if over:
            return max(over, key=lambda found: found[0])[1]
    return "unknown"


# --- Speed -------------------------------------------------------------------------------------------------------------


def _speeds() -> Iterator[Speed]:
    before = torch.get_num_threads()
    try:
        for threads in _thread_counts(usable_cores()):
            torch.set_num_threads(threads)
            for dtype in (torch.float32, torch.bfloat16):
                yield _timed("cpu", dtype, threads)
    finally:
        torch.set_num_threads(before)
    if torch.cuda.is_available():
        for dtype in (torch.float32, torch.bfloat16):
            yield _timed("cuda", dtype, 1)


def _timed(device: str, dtype: torch.dtype, threads: int) -> Speed:
    return Speed(device, str(dtype).removeprefix("torch."), threads, product_speed(device, dtype, seconds=SECONDS))


def _thread_counts(cores: int) -> list[int]:
    """
    >>> _thread_counts(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({*(2**i for i in range(cores.bit_length()) if 2**i <= cores), cores})[-6:]


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
