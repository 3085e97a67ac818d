from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ciyuan.training.machine import keep_memory, usable_cores
from tests.training.toy import settings


@pytest.mark.parametrize("threads", [0, 1025, 2**70])
def test_more_threads_than_any_machine_has_are_refused_before_torch_is_asked_for_them(threads: int) -> None:
    with pytest.raises(ValueError, match=r"threads must be at (least 1|most 1024)"):
        settings(threads=threads)


def test_threads_and_denormals_are_set_in_the_process() -> None:
    code = (
        "import torch; from ciyuan.training import prepare_process; print(prepare_process(1), torch.get_num_threads(), "
        "float(torch.tensor([1e-40]) * 1.0))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    threads, found, tiny = done.stdout.split()
    assert (threads, found) == ("1", "1")
    assert float(tiny) == 0.0 or not torch.set_flush_denormal(False)


def test_large_buffers_are_kept_where_there_is_glibc() -> None:
    code = (
        "import sys; from ciyuan.training.machine import keep_memory; print(keep_memory()); import torch, resource\n"
        "def step(): return torch.zeros(4_000_000).sum()\n"
        "step(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): step()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    assert kept == str(keep_memory())
    if kept == "True":
        assert int(faults) < 20 * 4_000_000 * 4 / 4096 / 2  # without it: each page of each buffer, each time


def test_usable_cores_are_those_of_this_process() -> None:
    assert usable_cores() >= 1
