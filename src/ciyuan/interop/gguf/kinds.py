"""How GGUF stores the numbers of a tensor: as floats, or in blocks that share a scale, which the package `gguf` knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ciyuan.errors import UserError


class Kind(NamedTuple):
    """n_values numbers of a row lie in n_bytes bytes."""

    name: str
    number: int
    n_values: int
    n_bytes: int


KINDS = {
    kind.number: kind
    for kind in (
        Kind("F32", 0, 1, 4), Kind("F16", 1, 1, 2), Kind("BF16", 30, 1, 2), Kind("Q8_0", 8, 32, 34), Kind("Q4_0", 2, 32, 18),
        Kind("Q4_1", 3, 32, 20), Kind("Q5_0", 6, 32, 22), Kind("Q5_1", 7, 32, 24), Kind("Q2_K", 10, 256, 84),
        Kind("Q3_K", 11, 256, 110), Kind("Q4_K", 12, 256, 144), Kind("Q5_K", 13, 256, 176), Kind("Q6_K", 14, 256, 210),
    )
}  # fmt: skip
"""Those that are read. Source: ggml.h, enum ggml_type, and the block structures of ggml-common.h."""
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def named(name: str) -> Kind:
    """The kind of that name.

    >>> named("Q8_0").n_bytes
    34
    """
    return next(kind for kind in KINDS.values() if kind.name == name)


def to_float32(raw: NDArray[np.uint8], kind: Kind, shape: tuple[int, ...], *, where: Path) -> Tensor:
    """The tensor whose bytes these are, in memory of its own. raw: as many bytes as the shape takes in that kind."""
    if kind.name in FLOATS:
        return torch.from_numpy(raw).view(FLOATS[kind.name]).view(shape).to(torch.float32)
    quants, qtype = _package(kind, where)
    rows = raw.reshape(*shape[:-1], shape[-1] // kind.n_values * kind.n_bytes)
    with np.errstate(all="ignore"):  # a hostile scale is an infinity or a NaN in the weights, not a warning
        found = quants.dequantize(rows, qtype)
    return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)).view(shape)


def to_bytes(tensor: Tensor, kind: Kind) -> NDArray[np.uint8]:
    """The bytes of a tensor, flat. Its last dimension is a multiple of the kind's block."""
    plain = tensor.detach().cpu().contiguous()
    if kind.name in FLOATS:
        return plain.to(FLOATS[kind.name]).flatten().view(torch.uint8).numpy()
    quants, qtype = _package(kind, None)
    return quants.quantize(plain.float().numpy(), qtype).reshape(-1).view(np.uint8)  # type: ignore[no-any-return]


def holds(kind: Kind, tensor: Tensor) -> bool:
    """Whether the largest number of a tensor stays a number in that kind: half precision and a block's scale end at 65,504.

    >>> holds(named("F16"), torch.tensor([7e4])), holds(named("BF16"), torch.tensor([7e4]))
    (False, True)
    """
    most = {"F32": torch.finfo(torch.float32).max, "BF16": torch.finfo(torch.bfloat16).max}
    largest_scale = {"Q8_0": 127, "Q4_0": 8}.get(kind.name, 1)
    return bool(tensor.abs().max() <= most.get(kind.name, largest_scale * torch.finfo(torch.float16).max))


def _package(kind: Kind, where: Path | None) -> tuple[Any, Any]:
    """gguf.quants, and its name of the kind. Raises UserError where the package is not installed."""
    try:
        import gguf
        from gguf import quants
    except ImportError:
        raise UserError(
            f"numbers in blocks ({kind.name}) need the package gguf", where=where, fix="pip install 'ciyuan[gguf]'"
        ) from None
    return quants, gguf.GGMLQuantizationType[kind.name]
