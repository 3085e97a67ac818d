"""Hostile model folders: each refused in three lines, soon, in little memory; no code run, nothing outside opened, no socket.

The folders are those of `tests/interop/test_hostile.py`; in the full tier each is made again with a splinter in another of its
files, so that the second fault meets the first.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import time
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ciyuan import interop
from ciyuan.errors import UserError
from tests.interop import test_hostile as hostile
from tests.interop.folders import config, model, saved, tokenizer_for
from torture.files import HungError, limited, splintered
from torture.harness import Case, Tally, broken, replaced

SECONDS, BYTES = 5, 10**9
OPENED: list[str] = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)


def run(tally: Tally) -> None:
    names = [*hostile.ATTACKS, *hostile.ATTACKS_OF_ONE_STACK]
    with broken(MUTANTS, tally.mutant), _no_network():
        for case in tally.cases(len(names) * (1 if not tally.full or tally.mutant else 4)):
            _one(tally, case, names[case.number % len(names)], again=case.number >= len(names))


def _one(tally: Tally, case: Case, name: str, *, again: bool) -> None:
    folder = case.folder / "model"
    if name in hostile.ATTACKS:
        shutil.copytree(_whole("", tally.scratch), folder)
        attack = hostile.ATTACKS[name][0]
    else:
        preset, attack, _ = hostile.ATTACKS_OF_ONE_STACK[name]
        shutil.copytree(_whole(preset, tally.scratch), folder)
    attack(folder)
    if again:
        victims = [
            path
            for path in sorted(folder.iterdir())
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**22
        ]
        if victims:
            victim = case.draw.choice(victims)
            victim.write_bytes(splintered(case.draw, victim.read_bytes()))
    OPENED.clear()
    tracemalloc.start()
    began = time.monotonic()
    try:
        with limited(SECONDS):
            interop.load_model_folder(folder)
    except UserError as error:
        if len(str(error).splitlines()) > 3 or "\x1b" in str(error):
            tally.fail(case, f"{name}: {error!r}")
    except (Exception, HungError) as error:  # noqa: BLE001 (whatever else it is, it is a defect)
        tally.fail(case, f"{name}: {type(error).__name__}: {error}")
    else:
        if not again:
            tally.fail(case, f"{name}: was loaded")
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    tally.see("seconds", time.monotonic() - began)
    tally.see("bytes", peak)
    if (case.folder / "mark").exists():
        tally.fail(case, f"{name}: its code was run")
    if any("secret" in path for path in OPENED):
        tally.fail(case, f"{name}: a file outside was opened")
    if peak > BYTES:
        tally.fail(case, f"{name}: {peak:,} bytes")


@cache
def _whole(preset: str, scratch: Path) -> Path:
    folder = scratch / f"whole-{preset}"
    if not preset:
        return saved(folder)
    tokens = tokenizer_for(preset)
    made = config(preset, tokens)
    if preset == "bert-2018":
        made = interop.with_head(made, "classification", n_labels=3)
    interop.save_model_folder(folder, model(made), tokens, {}, "")
    return folder


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened")

    with replaced(socket.socket, "connect", refuse), replaced(socket, "getaddrinfo", refuse):
        yield


def _trusting(folder: Path) -> object:
    """What loaders used to do with weights: unpickle them, wherever they lie."""
    import pickle

    for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")):
        return pickle.loads(path.read_bytes())  # noqa: S301 (a mutant: the pickle is the harness's own)
    raise UserError("is no model")


MUTANTS = {"a loader that trusts pickles": lambda: replaced(interop, "load_model_folder", _trusting)}
