"""Files of a model folder that nobody vouches for: only plain files inside the folder are opened, and only as data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ciyuan.errors import ModelFolderError
from ciyuan.interop.mapping import listed, shown_name
from ciyuan.text.files import GET_AGAIN, Files

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
INFO = "ciyuan.json"
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CONVERT = "convert them where you trust them, by transformers: the class's from_pretrained(A).save_pretrained(B)"


class Folder(Files):
    """A model folder, some of whose file names come out of the folder itself."""

    def find(self, name: str, largest: int | None = None) -> Path | None:
        """The plain file of that name in the folder; None if there is none. Raises ModelFolderError at anything else."""
        if not name or name in (".", "..") or "\0" in name or "/" in name or "\\" in name:
            raise ModelFolderError(
                f"{shown_name(name)} is no file name", where=self.path, allowed="files of this folder, by name"
            )
        return super().find(name, largest)

    def open_weights(self) -> Weights:
        """The tensors of model.safetensors, or of the files that its index names."""
        index = self.read_json(INDEX)
        if self.find(WEIGHTS) is not None:
            return Weights(self, [WEIGHTS])
        if index is None:
            self._no_weights()
        places = index.get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            raise ModelFolderError("has no weight_map of names", where=self.path / INDEX, fix=GET_AGAIN)
        files = sorted(set(cast(dict[str, str], places).values()))
        for name in files:
            if not name.endswith(".safetensors") or self.find(name) is None:
                raise ModelFolderError(
                    f"{shown_name(name)} is named, and is not there", where=self.path / INDEX, fix=GET_AGAIN
                )
        weights = Weights(self, files)
        wrong = sorted(name for name in {*places, *weights} if places.get(name) != weights.places.get(name))
        if wrong:
            weights.close()
            raise ModelFolderError(f"is wrong about {listed(wrong)}", where=self.path / INDEX, fix=GET_AGAIN)
        return weights

    def _no_weights(self) -> NoReturn:
        pickles = sorted(path.name for path in self._root.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ModelFolderError(
                f"the weights are a pickle ({listed(pickles, 1)}), which can run code", where=self.path,
                allowed=f"{WEIGHTS} is read", fix=CONVERT,
            )  # fmt: skip
        raise ModelFolderError(f"there is no {WEIGHTS}", where=self.path, fix="name the folder of a finished model")


class Weights(Mapping[str, Tensor]):
    """The tensors of some safetensors files, each read when it is asked for: a copy in memory, 16-bit floats widened to 32.

    Names, shapes and kinds are known without reading. Raises ModelFolderError where a file is damaged.
    """

    def __init__(self, folder: Folder, files: Sequence[str]) -> None:
        self.where = folder.path / (files[0] if len(files) == 1 else INDEX)
        self.places: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        self._stored: dict[str, str] = {}
        self.size = 0
        try:
            for name in files:
                path = folder.find(name)
                assert path is not None, "who asks has seen the file"
                self.size += path.stat().st_size
                self._files[name] = safe_open(path, framework="pt")
                for key in self._files[name].keys():  # noqa: SIM118  (not a mapping)
                    if key in self.places:
                        raise ModelFolderError(f"{shown_name(key)} is in two files", where=self.where, fix=GET_AGAIN)
                    self.places[key] = name
        except ModelFolderError:
            self.close()
            raise
        except Exception as error:  # noqa: BLE001  (whatever a hostile header makes the library say)
            self.close()
            raise ModelFolderError(
                f"is damaged: {shown_name(error)}", where=folder.path / name, fix=GET_AGAIN
            ) from None
        self._stored = {key: key for key in self.places}

    def respell(self, spelling: Callable[[str], str]) -> None:
        """Call each tensor what `spelling` makes of its name in the file."""
        stored: dict[str, str] = {}
        for key in self.places:
            name = spelling(key)
            if name in stored:
                raise ModelFolderError(
                    f"{shown_name(key)} and {shown_name(stored[name])} are one tensor", where=self.where, fix=GET_AGAIN
                )
            stored[name] = key
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def kind(self, name: str) -> str:
        """As the format spells it: F32, BF16, I8."""
        return str(self._slice(name).get_dtype())

    def _slice(self, name: str) -> Any:
        key = self._stored[name]
        return self._files[self.places[key]].get_slice(key)

    def __getitem__(self, name: str) -> Tensor:
        if self.kind(name) not in FLOATS:
            raise ModelFolderError(
                f"{shown_name(name)} is of kind {self.kind(name)}",
                where=self.where,
                allowed=f"kinds: {', '.join(FLOATS)}",
            )
        try:
            key = self._stored[name]
            tensor: Tensor = self._files[self.places[key]].get_tensor(key)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelFolderError(f"is damaged: {shown_name(error)}", where=self.where, fix=GET_AGAIN) from None
        return tensor.to(torch.float32, copy=True)

    def verify(self) -> None:
        """Compare with the fingerprint that we write into a file's header, where it has one."""
        for file, opened in self._files.items():
            wanted = (opened.metadata() or {}).get(FINGERPRINT)
            names = sorted(name for name, place in self.places.items() if place == file)
            if wanted is not None and fingerprint({name: opened.get_tensor(name) for name in names}) != wanted:
                raise ModelFolderError(
                    "is damaged: its contents are not what was written", where=self.where.with_name(file), fix=GET_AGAIN
                )

    def close(self) -> None:
        self._files.clear()  # the library unmaps a file when nothing refers to it

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


FINGERPRINT = "sha256"
"""The key in a safetensors header: SHA-256 of every tensor's name, shape, kind and bytes, by name. The format itself has none."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(cast(Any, tensor.flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()
