"""mT5 (Xue et al. 2021): T5 v1.1 with other defaults. It goes out as T5, which says the same."""

from __future__ import annotations

from ciyuan.interop.families.t5 import FIXED, read_decoder, read_stack, table, write
from ciyuan.interop.family import LANGUAGE_MODEL, Family, Found
from ciyuan.interop.settings import TheirSettings

DEFAULTS: dict[str, int | str] = {
    "vocab_size": 250112, "num_layers": 8, "num_heads": 6, "d_ff": 1024, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
"""The class's own, for keys that may be missing."""


def read(theirs: TheirSettings, found: Found) -> dict[str, object]:
    theirs.flag("tie_word_embeddings", True)  # false in the released files; it is the weights that tell
    theirs.must("scale_decoder_outputs", False)
    return read_stack(theirs, DEFAULTS) | read_decoder(theirs, found)


MT5 = Family("mt5", {"MT5ForConditionalGeneration": LANGUAGE_MODEL}, FIXED, read, write, table, tied_to="shared.weight")
