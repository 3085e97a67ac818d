"""What the process is told before it trains: how to keep memory, how many threads, what to do with tiny numbers."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Literal

import torch
from torch.nn import functional

SIZE = 768
"""Of the square matrices that are multiplied, about a small model's width times its batch."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def prepare_process(threads: int | Literal["auto"] = "auto") -> int:
    """Call before the first large tensor is made. Returns the number of threads torch computes with."""
    keep_memory()
    torch.set_num_threads(usable_cores() if threads == "auto" else threads)
    torch.set_flush_denormal(True)  # weights that fade to nothing would slow a CPU down a hundredfold
    return torch.get_num_threads()


def keep_memory() -> bool:
    """Have glibc keep large buffers for the next step instead of giving them back to the system and asking anew.

    Without it each step pays page faults for its activations. False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def product_speed(device: torch.device | str, dtype: torch.dtype, *, seconds: float = 0.15) -> float:
    """Multiply-adds a second, each counting two, of square matrix products, by the threads that torch has.

    The best of several, as what else runs on the machine only slows it. Draws nothing from global generators.
    """
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=draw).to(device, dtype) for _ in range(2))
    quickest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or quickest == float("inf"):
        began = time.perf_counter()
        c = functional.linear(a, b)  # as in a model: its layout decides which kernel runs
        c[0, 0].item()  # waits for a GPU
        quickest = min(quickest, time.perf_counter() - began)
    return 2 * SIZE**3 / quickest


def usable_cores() -> int:
    """Physical cores are not told apart from their threads: what the system lets this process use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
