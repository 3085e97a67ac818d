"""A model's tokeniser, and the special tokens on which both must agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ciyuan.errors import ModelFolderError, TokenizerError
from ciyuan.interop.folder import Folder
from ciyuan.interop.huggingface.description import Described
from ciyuan.interop.mapping import shown_name
from ciyuan.interop.settings import CODE, TheirSettings
from ciyuan.model.config import ModelConfig
from ciyuan.text import Tokenizer
from ciyuan.text.files import GET_AGAIN
from ciyuan.text.special import NO_PAD

MANY_LANGUAGES = ("mbart", "m2m_100")
"""Types of models that are told by their first token which language to write."""


def read_tokenizer(files: Folder, own: Mapping[str, Any]) -> Tokenizer:
    theirs = files.read_json("tokenizer_config.json") or {}
    TheirSettings({name: theirs.get(name) for name in CODE}, files.path / "tokenizer_config.json")
    try:
        tokenizer = Tokenizer.from_files(files)
    except TokenizerError as error:
        where = files.path if error.where is None else error.where
        raise ModelFolderError(
            f"the tokeniser cannot be used: {error.found}",
            where=where,
            allowed=error.allowed,
            fix=error.fix or GET_AGAIN,
        ) from None
    if own.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise ModelFolderError(
            "tokenizer.json is a tokeniser of another model", where=files.path,
            fix="put the one back that the model was trained with",
        )  # fmt: skip
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, config: ModelConfig, *, where: object) -> None:
    """A tokeniser's ids must be rows of the model's vocabulary, and its special tokens the model's."""
    found = ""
    n_rows = max(tokenizer.backend.get_vocab().values(), default=-1) + 1
    if n_rows > config.vocab_size:
        found = f"{n_rows:,} tokens for a vocabulary of {config.vocab_size:,}"
    elif tokenizer.has("pad") and tokenizer.pad_id != config.pad_id:
        found = f"its PAD is {tokenizer.pad_id}, the model's {config.pad_id}"
    elif tokenizer.has("eos") and config.eos_id not in (None, tokenizer.eos_id):
        found = f"its EOS is {tokenizer.eos_id}, the model's {config.eos_id}"
    if found:
        raise ModelFolderError(
            f"this is a tokeniser of another model: {found}", where=where,
            fix="put the one back that the model was trained with",
        )  # fmt: skip


def agreed(tokenizer: Tokenizer, described: Described, *, ours: bool) -> tuple[Tokenizer, ModelConfig, list[str]]:
    """Tokeniser and configuration with the same PAD, BOS and EOS, and what was changed for that.

    PAD is the tokeniser's where config.json names none; where the tokeniser has none either, rows are filled with EOS. In a
    decoder of another tool BOS has its role only where the tokeniser puts one before a text, and EOS is that of config.json,
    whatever the tokeniser calls so: both end a text, and the model is known to write the one.
    """
    config, notes = described.config, list(tokenizer.notes)
    special = tokenizer.special
    decoder = config.family == "decoder" and not ours
    if decoder and tokenizer.has("eos") and config.eos_id not in (None, tokenizer.eos_id):
        chosen = {tokenizer.id_of_token(text): text for text in special.spellings()}.get(config.eos_id)
        if chosen is not None:
            notes.append(
                f"EOS is {shown_name(chosen)}, by config.json; the tokeniser calls {shown_name(special.eos)} so"
            )
            special = replace(special, eos=chosen, pad=None if special.pad == chosen else special.pad)
    if decoder and tokenizer.has("bos") and not tokenizer.begins_with_bos:
        notes.append(f"BOS, {shown_name(special.bos)}, has no role: the tokeniser puts none before a text")
        special = replace(special, bos=None)
    if special != tokenizer.special:
        without_role = set(tokenizer.special.spellings()) - set(special.spellings())
        extra = [text for text in special.extra if text not in special.by_role().values()]
        special = replace(special, extra=(*extra, *sorted(without_role)))
        tokenizer = Tokenizer(tokenizer.backend, special, chat_template=tokenizer.chat_template)
    changes: dict[str, object] = {}
    if not described.has_pad or (config.family == "decoder" and (decoder or not tokenizer.has("pad"))):
        changes["pad_id"] = tokenizer.pad_id
    if decoder:
        changes["bos_id"] = tokenizer.bos_id if tokenizer.has("bos") else None
        if config.eos_id is None and tokenizer.has("eos"):
            changes["eos_id"] = tokenizer.eos_id
    if config.family == "encoder-decoder":
        around = tokenizer.around
        if (around.head, around.tail) not in (((), ()), ((), (config.eos_id,))):
            changes |= {"source_head": around.head, "source_tail": around.tail}
        if config.first_id is None and described.family.model_type in MANY_LANGUAGES:
            notes.append(
                "it names no language to write: set forced_bos_token_id in generation_config.json to the id of one"
            )
    if tokenizer.reads_only:
        notes.append(
            "what it writes was cut by another tokeniser, target.spm: it translates, and cannot be taught more"
        )
    if not tokenizer.has("pad"):
        notes.append(NO_PAD)
    return tokenizer, config.model_copy(update=changes), notes
