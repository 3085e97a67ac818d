"""The tokens that end a text, where there are several: eos_token_id as a list, in config.json or in generation_config.json.

A model has one EOS, which is what it learns here: the first of config.json. What it generates ends with any token that
generation_config.json names or, where that names none, config.json; as in transformers. `Loaded.info[ENDS]` has the value of each
file, which is written back as it was; it is there only where it says more than EOS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciyuan.errors import ModelFolderError
from ciyuan.interop.folder import Folder
from ciyuan.interop.mapping import shown_name

ENDS = "ends"
MODEL, WRITING = "config.json", "generation_config.json"
MOST = 1024


def read_ends(files: Folder, vocab_size: int) -> dict[str, int | list[int]]:
    """The value of each file, or nothing where there is only EOS. Raises ModelFolderError at what is no id of the vocabulary."""
    found: dict[str, int | list[int]] = {}
    for name in (MODEL, WRITING):
        value = (files.read_json(name) or {}).get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not 0 < len(ids) <= MOST or not all(type(token) is int and 0 <= token < vocab_size for token in ids):
            raise ModelFolderError(
                f"eos_token_id is {shown_name(value)}", where=files.path / name,
                allowed=f"ids from 0 to {vocab_size - 1:,}, one or several",
            )  # fmt: skip
        found[name] = value
    values = list(found.values())
    return {} if all(type(value) is int and value == values[0] for value in values) else found


def stop_ids(info: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens beside EOS that end what a model generates, by its `Loaded.info`; EOS may be among them.

    >>> stop_ids({"ends": {"config.json": [7, 8], "generation_config.json": [7, 8, 9]}}), stop_ids({})
    ((7, 8, 9), ())
    """
    found = written_ends(info)
    return () if found is None else tuple(found) if isinstance(found, list) else (found,)


def written_ends(info: Mapping[str, Any]) -> int | list[int] | None:
    """The eos_token_id of a generation_config.json; None where EOS alone ends a text."""
    ends: dict[str, int | list[int]] = info.get(ENDS) or {}
    return ends.get(WRITING, ends.get(MODEL))
