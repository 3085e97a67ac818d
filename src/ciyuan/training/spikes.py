"""Jumps of the loss: six standard deviations above its running mean."""

from __future__ import annotations

import math

SIGMAS, MEMORY, AFTER, PAUSE = 6.0, 0.98, 50, 100


def jumped(spike: dict[str, float], loss: float, step: int) -> bool:
    """Whether this step's loss is far above those before it; said at most once in PAUSE steps.

    spike: "n", "mean", "variance" of the losses so far, the latest weighing most, and "warned", the step of the last warning;
    brought up to date in place.
    """
    deviation = math.sqrt(spike["variance"])
    beyond = loss - spike["mean"] > SIGMAS * deviation
    found = spike["n"] >= AFTER and deviation > 0 and beyond and step - spike["warned"] >= PAUSE
    if found:
        spike["warned"] = step
    memory = min(MEMORY, spike["n"] / (spike["n"] + 1))
    difference = loss - spike["mean"]
    spike["mean"] += (1 - memory) * difference
    spike["variance"] = memory * (spike["variance"] + (1 - memory) * difference * difference)
    spike["n"] += 1
    return found
