"""The safetensors format, written by ourselves: the same tensors are the same bytes, and a full disk is an OSError.

The library's own writer orders a header's metadata by chance, goes through a second copy in memory, and has words where the
system has a number for what went wrong.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Writable(Protocol):
    def write(self, data: bytes | memoryview, /) -> object: ...


def write_tensors(file: Writable, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """All of a safetensors file, straight from the tensors; the widest kinds first, so that each lies at its own alignment."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for _, tensor in ordered:
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        file.write(raw.data)


KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Of tensors, as the format spells them."""
