"""Models in and out: Hugging Face folders of the families in `FAMILIES`."""

from ciyuan.interop.adapters import load_adapter, save_adapter
from ciyuan.interop.ends import stop_ids
from ciyuan.interop.families import FAMILIES, Family
from ciyuan.interop.huggingface import (
    Loaded,
    family_of,
    load_model_folder,
    load_transformer,
    save_model_folder,
    to_hugging_face,
    with_head,
)

__all__ = [
    "FAMILIES",
    "Family",
    "Loaded",
    "family_of",
    "load_adapter",
    "load_model_folder",
    "load_transformer",
    "save_adapter",
    "save_model_folder",
    "stop_ids",
    "to_hugging_face",
    "with_head",
]
