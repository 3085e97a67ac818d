"""Parts of a pretrained model that stay as they were."""

from __future__ import annotations

from collections.abc import Collection

from ciyuan.errors import TrainingError
from ciyuan.model.lora import is_adapter
from ciyuan.model.transformer import Transformer


def freeze(model: Transformer, what: str | int) -> int:
    """Take parameters out of training, in place; how many numbers that are.

    what: "none"; "embeddings", tables and whatever normalises or shifts them; "body", everything below the head; or a number of
    blocks, counted from the lowest of each stack, with the embeddings. A tied head moves with its table, so it stays as well.
    Raises TrainingError where nothing would be left to train.
    """
    frozen = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not _is_frozen(name, what))
        frozen += 0 if parameter.requires_grad else parameter.numel()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(f"training.freeze: {what} leaves nothing to train", fix="freeze less")
    return frozen


def _is_frozen(name: str, what: str | int) -> bool:
    if what == "none":
        return False
    if (
        name.startswith(("embedding.", "source_embedding.", "token_types."))
        or "embedding_norm" in name
        or "positions" in name
    ):
        return True
    in_body = name.startswith(("encoder.", "decoder."))
    if what == "body":
        return in_body
    if isinstance(what, int) and in_body and ".blocks." in name:
        return int(name.partition(".blocks.")[2].split(".")[0]) < what
    return False


def freeze_base(model: Transformer, new: Collection[str]) -> int:
    """Take everything but adapters and the `new` parameters out of training, in place; how many numbers that are."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name) or name in new)
    return sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
