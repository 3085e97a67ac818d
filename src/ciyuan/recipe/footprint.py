"""How much memory a training takes: two steps of it, in a process of its own, as the user's would be.

What a step keeps can be counted, but not what the C library leaves unused between the pieces: that is as much again at times, and
only shows where it happens.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch

from ciyuan.config import write_settings
from ciyuan.errors import CiyuanError, UserError
from ciyuan.recipe.running import trained
from ciyuan.recipe.settings import Recipe, read_recipe
from ciyuan.training import Silent

STEPS = 2
"""The second finds memory in the pieces that the first has left."""


def footprint(recipe: Recipe, folder: Path, *, tokenizer: Path, init: str | Path | None = None) -> int:
    """Bytes that training takes at most beside Python and its libraries; on a GPU, of the GPU's memory.

    recipe: in numbers. folder: to work in. tokenizer: the folder of the one that was trained for it. Raises UserError where the
    training does not fit.
    """
    changes = {"steps": STEPS, "minutes": None, "tokens": None, "checkpoint_every": STEPS, "evaluate_every": STEPS,
               "early_stop": None}  # fmt: skip
    training = recipe.training.model_copy(update=changes)
    short = recipe.model_copy(update={"training": training})
    if init is None:
        short = short.model_copy(update={"tokenizer": short.tokenizer.model_copy(update={"path": str(tokenizer)})})
    path = folder / "footprint.yaml"
    path.write_text(write_settings(short), encoding="utf-8")
    words = [sys.executable, "-m", __name__, str(path), str(folder / "footprint"), "" if init is None else str(init)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)  # noqa: S603
    said = done.stderr.strip().splitlines() or ["it said nothing"]
    if done.returncode == 0:
        return int(json.loads(done.stdout)["bytes"])
    if done.returncode == UserError.exit_code:
        raise UserError(*said[:1], allowed=" ".join(said[1:2]) or None, fix=" ".join(said[2:3]) or None)
    if done.returncode == -9 or "MemoryError" in done.stderr or "OutOfMemory" in done.stderr:
        raise UserError(
            "does not fit into the memory of this machine: two steps of the training were tried",
            fix="lower training.batch_tokens, model.d_model or model.n_layers",
        )
    raise CiyuanError(f"two steps of the training ended with code {done.returncode}: {said[-1]}")


def _resident(name: str) -> int:
    """Of this process: "VmRSS", what it has, or "VmHWM", the most that it had. Elsewhere than on Linux only the latter is known."""
    with suppress(OSError, TypeError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])  # type: ignore[index]  # None is the TypeError
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def main(path: str, out: str, init: str) -> int:
    """What a process of its own does: prints what it took."""
    before = _resident("VmRSS")
    try:
        with trained(read_recipe(path, init=bool(init)), out, init=init or None, monitor=Silent()) as done:
            on_gpu = next(done.materials.model.parameters()).is_cuda
            taken = torch.cuda.max_memory_reserved() if on_gpu else _resident("VmHWM") - before
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return UserError.exit_code
    sys.stdout.write(json.dumps({"bytes": taken}) + "\n")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(*sys.argv[1:4]))
