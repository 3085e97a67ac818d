"""Where a model to be imported lies: a folder, a GGUF file, a hub's cache, or the hub itself where its own client is at hand."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciyuan.errors import ModelFolderError, UserError
from ciyuan.interop.ends import ENDS
from ciyuan.interop.folder import CONVERT, INDEX, PICKLES, WEIGHTS, Folder
from ciyuan.interop.huggingface import Loaded, load_model_folder
from ciyuan.interop.mapping import listed, shown_name

WANTED = (
    "config.json", "generation_config.json", WEIGHTS, INDEX, "model-*.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.txt", "vocab.json", "merges.txt",
    "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "source.spm", "target.spm",
)  # fmt: skip
"""The files that are fetched from a hub; never a pickle, never code."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
"""What a model may be called on a hub."""
REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """What was read, and from where. provenance: JSON values, for ciyuan.json."""

    loaded: Loaded
    provenance: dict[str, Any]


def read_source(source: str) -> Source:
    """The model that `source` names: a path, or where there is no such path the name of a model on the hub.

    Raises ModelFolderError where there is none, or one that is damaged, not understood or not to be trusted.
    """
    path = Path(source)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):
        is_folder = is_file = False
    if is_file:
        return _of_file(path)
    if is_folder:
        return _of_folder(path, name=path.resolve().name)
    if NAME.fullmatch(source) and not source.startswith("."):
        return _of_folder(_fetched(source), name=source)
    raise ModelFolderError("there is no such file or folder", where=shown_name(source), fix="name one on this machine")


def _of_file(path: Path) -> Source:
    if path.suffix == ".gguf":
        from ciyuan.interop.gguf import read_gguf

        loaded = read_gguf(path)
        kinds = sorted(set(loaded.info.get("kinds", ())) - {"F32"})
        notes = (*loaded.notes, f"numbers stored as {' and '.join(kinds)} are kept as F32") if kinds else loaded.notes
        info = {name: value for name, value in loaded.info.items() if name == ENDS}
        loaded = Loaded(loaded.model, loaded.tokenizer, info, loaded.origin or "GGUF", notes)
        return Source(loaded, {"source": path.name, "format": "gguf", "sha256": {path.name: _sha256(path)}})
    if path.suffix in PICKLES:
        raise ModelFolderError(
            "is a pickle, which can run code when it is read",
            where=path,
            allowed="safetensors and GGUF are read",
            fix=CONVERT,
        )
    raise ModelFolderError(
        "is no model", where=path, allowed="a folder with a config.json, or a .gguf file",
        fix="name the folder" if path.suffix in (".safetensors", ".json") else None,
    )  # fmt: skip


def _of_folder(path: Path, *, name: str) -> Source:
    folder = _opened(path)
    ggufs = sorted(entry.name for entry in folder.path.iterdir() if entry.suffix == ".gguf")
    if ggufs and folder.find("config.json") is None:
        if len(ggufs) > 1:
            raise ModelFolderError(
                f"holds {len(ggufs)} models: {listed(ggufs)}", where=folder.path, fix="name one file"
            )
        found = folder.find(ggufs[0])
        assert found is not None, "it has just been listed"
        return _of_file(folder.path / ggufs[0])
    loaded = load_model_folder(folder)
    shards = () if folder.find(WEIGHTS) is not None else (folder.read_json(INDEX) or {})["weight_map"].values()
    names = ("config.json", WEIGHTS, INDEX, *sorted(set(shards)))
    files = {entry: found for entry in names if (found := folder.find(entry)) is not None}
    sums = {entry: _sha256(found) for entry, found in files.items()}
    return Source(loaded, {"source": name, "format": "hugging-face", "class": loaded.origin, "sha256": sums})


def _opened(path: Path) -> Folder:
    """The folder; in a hub's cache the one that its main branch names, whose files are links to the blobs beside it."""
    if path.name.startswith("models--") and (path / "snapshots").is_dir():
        return Folder(path / "snapshots" / _revision(path), root=path)
    repository = path.absolute().parent.parent
    if path.absolute().parent.name == "snapshots" and repository.name.startswith("models--"):
        return Folder(path, root=repository)
    return Folder(path)


def _revision(repository: Path) -> str:
    found: Sequence[str] = [entry.name for entry in (repository / "snapshots").iterdir() if entry.is_dir()]
    if (repository / "refs").is_dir() and not (repository / "refs").is_symlink():
        raw = Folder(repository / "refs", root=repository).read_bytes("main", 100)
        named = (raw or b"").decode("ascii", "replace").strip()
        if REVISION.fullmatch(named) and named in found:
            return named
    if len(found) != 1:
        raise ModelFolderError(
            f"has {len(found)} snapshots, and refs/main names none of them", where=repository,
            fix="name the folder of one: snapshots/…",
        )  # fmt: skip
    return found[0]


def _fetched(name: str) -> Path:
    """The files of a model on the hub, by the hub's own client, where it is installed and may go online."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if offline or importlib.util.find_spec("huggingface_hub") is None:
        why = "HF_HUB_OFFLINE is set" if offline else "huggingface_hub is not installed"
        raise ModelFolderError(
            "there is no such file or folder here", where=shown_name(name),
            allowed=f"a model of that name is not fetched: {why}", fix="name a folder on this machine",
        )  # fmt: skip
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # noqa: BLE001  (a network has many ways to fail)
        raise UserError(
            f"could not be fetched: {shown_name(str(error).partition(chr(10))[0])}", where=shown_name(name),
            fix="fetch it another way, and name the folder",
        ) from None  # fmt: skip


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_card(source: Source, uses: Sequence[str]) -> str:
    """The model card, README.md. uses: commands that the model can be put to."""
    loaded, provenance = source.loaded, source.provenance
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    notes = "".join(f"- {note}\n" for note in loaded.notes) or "Nothing was changed but the names of the files.\n"
    commands = "\n".join(uses)
    return f"""---
library_name: transformers
tags:
- ciyuan
- imported
---

# {provenance["source"]}

Imported by ciyuan: {loaded.origin}, {size:,} parameters. Who made it, on what, and under which licence, the model's own card says.

## What was changed

{notes}
## Use

```
{commands}
```
"""
