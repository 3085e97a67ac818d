"""Starting a script in a fresh process that sees no network, no user's settings and none of our modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciyuan.interop.mapping import shown_name

SCRIPTS = Path(__file__).parent
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
MISSING = 3
"""The exit code of a script whose runtime cannot be imported."""


class ScriptError(Exception):
    """A script that failed; the message is its last word."""


class MissingRuntime(ScriptError):  # noqa: N818  (what it is, not what went wrong)
    """The runtime, or something that it needs, cannot be imported."""


@dataclass(frozen=True)
class Answers:
    """What a script answered: values as in JSON, arrays by name."""

    values: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def run_script(script: str, request: Mapping[str, Any]) -> Answers:
    """Run one of the scripts beside this file. Raises MissingRuntime, or ScriptError where it fails otherwise."""
    with tempfile.TemporaryDirectory(prefix="ciyuan-") as scratch:
        asked, answers = Path(scratch) / "request.json", Path(scratch) / "answers"
        asked.write_text(json.dumps(request), encoding="utf-8")
        answers.mkdir()
        done = subprocess.run(  # noqa: S603  (our own scripts, no shell)
            [sys.executable, "-I", str(SCRIPTS / "offline.py"), str(SCRIPTS / script), str(asked), str(answers)],
            env={**os.environ, **OFFLINE}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            check=False,
        )  # fmt: skip
        if done.returncode:
            said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            last = said[-1] if said else f"it ended with code {done.returncode}"
            raise (MissingRuntime if done.returncode == MISSING else ScriptError)(shown_name(last))
        values, arrays = answers / "answers.json", answers / "arrays.npz"
        found: dict[str, NDArray[Any]] = {}
        if arrays.exists():
            with np.load(arrays, allow_pickle=False) as packed:
                found = {name: packed[name] for name in packed.files}
        return Answers(json.loads(values.read_text(encoding="utf-8")) if values.exists() else {}, found)
