"""From files of many formats to batches of token ids: readers, checks, the token store, and the resumable loader.

readers ──> Corpus (checks) ──> prepare (examples) ──> TokenStore ──> Loader or PackedLoader ──> Prefetch
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ciyuan.data.settings import DataSettings as DataSettings

if TYPE_CHECKING:
    from ciyuan.data.blocks import PackedLoader as PackedLoader
    from ciyuan.data.checks import Corpus as Corpus
    from ciyuan.data.loader import Loader as Loader
    from ciyuan.data.prefetch import Prefetch as Prefetch
    from ciyuan.data.preparation import Preflight as Preflight
    from ciyuan.data.preparation import Prepared as Prepared
    from ciyuan.data.preparation import prepare as prepare
    from ciyuan.data.readers import Record as Record
    from ciyuan.data.readers import read_answers as read_answers
    from ciyuan.data.readers import read_chats as read_chats
    from ciyuan.data.readers import read_labelled as read_labelled
    from ciyuan.data.readers import read_pairs as read_pairs
    from ciyuan.data.readers import read_texts as read_texts
    from ciyuan.data.sentence_pairs import SentencePairs as SentencePairs
    from ciyuan.data.store import TokenStore as TokenStore

_HOMES = {
    "Corpus": "checks", "Loader": "loader", "Prefetch": "prefetch", "PackedLoader": "blocks", "Preflight": "preparation",
    "Prepared": "preparation", "Record": "readers", "SentencePairs": "sentence_pairs", "TokenStore": "store",
    "prepare": "preparation", "read_answers": "readers", "read_chats": "readers", "read_labelled": "readers",
    "read_pairs": "readers", "read_texts": "readers",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Numpy is imported only when something is used that needs it: `ciyuan --help` does not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
