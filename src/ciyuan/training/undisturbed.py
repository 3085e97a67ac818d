"""Work beside training of which training must not notice anything."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards modes and generators as they were, so that looking at a model does not change its training."""
    modes = [(module, module.training) for module in model.modules()]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 (whoever uses it finds it unchanged)
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        torch.set_rng_state(generators[0])
        random.setstate(generators[1])
        np.random.set_state(generators[2])  # noqa: NPY002
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """What lives already is not looked at again by Python's garbage collector at every few hundred tensors."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
