"""Which tokens are special, and in which role: by what a folder's files say, and where they are silent by what is usual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import tokenizers
from tokenizers import AddedToken

from ciyuan.errors import TokenizerError
from ciyuan.text.files import GET_AGAIN, Files
from ciyuan.text.guarded import printable
from ciyuan.text.special import Role, SpecialTokens

ROLES: tuple[Role, ...] = get_args(Role)
MOST_ADDED = 2**15


def add_tokens(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any], files: Files, roles: Mapping[Role, str]
) -> None:
    """Tokens that lie beside the vocabulary, at their ids; then those that are named and are not there, at the end."""
    where = files.path / "tokenizer_config.json"
    beside: dict[int, AddedToken] = {}
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise TokenizerError("added_tokens_decoder is no object", where=where)
    old = {} if decoder else files.read_json("added_tokens.json") or {}
    further = _further(settings)
    if (n := len(decoder) + len(old) + len(further)) > MOST_ADDED:
        raise TokenizerError(f"{n:,} added tokens", where=where, allowed=f"at most {MOST_ADDED:,}")
    special = {*roles.values(), *further}
    for key, value in decoder.items():
        beside[_token_id(key, where)] = _added(value, where, special)
    for text, number in old.items():
        beside[_token_id(number, files.path / "added_tokens.json")] = _plain(text, special=text in special)
    for number, token in sorted(beside.items()):
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        found = backend.token_to_id(token.content)
        if found != number:
            raise TokenizerError(
                f"{printable(token.content)} is to have the id {number:,}, and would have {found:,}", where=where,
                fix=GET_AGAIN,
            )  # fmt: skip
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    spelt = [spelling_of(settings.get(f"{role}_token")) for role in ROLES]
    named = [one for one in spelt if one is not None]
    wanted = [text for text in (*named, *further) if text not in known]
    here = [text for text in roles.values() if text not in known and backend.token_to_id(text) is not None]
    backend.add_special_tokens([_plain(text, special=True) for text in dict.fromkeys((*wanted, *here))])


def _token_id(key: object, where: object) -> int:
    text = str(key)
    if isinstance(key, bool) or not text.isdecimal() or len(text) > 8:
        raise TokenizerError(f"{printable(text)} is no id of an added token", where=where)
    return int(text)


def _added(value: object, where: object, special: set[str]) -> AddedToken:
    content = spelling_of(value)
    if not content or not isinstance(value, Mapping):
        raise TokenizerError("an added token has no content", where=where)
    flags = {name: value.get(name, False) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise TokenizerError(f"{printable(content)}: lstrip and the like are true or false", where=where)
    flags["special"] = flags["special"] or content in special
    return AddedToken(content, **flags)


def _plain(text: str, *, special: bool) -> AddedToken:
    return AddedToken(text, normalized=not special, special=special)


def usual_roles(backend: tokenizers.Tokenizer) -> dict[Role, str]:
    """The roles that the usual spellings give away, where no file names any."""
    usual: Mapping[Role, tuple[str, ...]] = {
        "pad": ("<pad>", "[PAD]", "<|pad|>"),
        "bos": ("<s>", "<bos>"),
        "eos": ("</s>", "<eos>", "<|endoftext|>"),
        "unk": ("<unk>", "[UNK]"),
        "mask": ("<mask>", "[MASK]"),
        "cls": ("[CLS]",),
        "sep": ("[SEP]",),
    }
    found: dict[Role, str] = {}
    for role, spellings in usual.items():
        there = [text for text in spellings if backend.token_to_id(text) is not None]
        if there:
            found[role] = there[0]
    return found


def roles_by_ids(
    backend: tokenizers.Tokenizer, roles: dict[Role, str], named: Mapping[Role, object], about_model: Mapping[str, Any]
) -> None:
    """Roles that no file of the tokeniser speaks of, by the ids of config.json, where they are those of special tokens."""
    special = {number: token.content for number, token in backend.get_added_tokens_decoder().items() if token.special}
    role: Role
    for role in ("pad", "bos", "eos"):
        found = about_model.get(f"{role}_token_id")
        first = found[0] if isinstance(found, list) and found else found
        if role not in roles and role not in named and type(first) is int and first in special:
            roles[role] = special[first]


def special_tokens(
    backend: tokenizers.Tokenizer, roles: Mapping[Role, str], settings: Mapping[str, Any]
) -> SpecialTokens:
    """PAD is dropped where it is another role's token: rows are masked by position, and their end is learnt."""
    chosen: dict[str, str | None] = {role: roles.get(role) for role in ROLES}
    if chosen["pad"] in {text for role, text in roles.items() if role != "pad"}:
        chosen["pad"] = None
    marked = [token.content for _, token in sorted(backend.get_added_tokens_decoder().items()) if token.special]
    further = [text for text in _further(settings) if backend.token_to_id(text) is not None]
    extra = [text for text in dict.fromkeys((*further, *marked)) if text not in chosen.values()]
    if chosen["pad"] is None and chosen["eos"] is None:
        raise TokenizerError(
            "this tokeniser has no PAD token, and no EOS that would do for filling rows", where="tokenizer_config.json",
            fix="add a pad_token to that file",
        )  # fmt: skip
    return SpecialTokens(**chosen, extra=tuple(extra))


def spelling_of(value: object) -> str | None:
    """A token as a configuration names it: its text, or an object whose content is its text."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _further(settings: Mapping[str, Any]) -> list[str]:
    """The special tokens without a role, under the name that transformers 4 or 5 gives them."""
    found: list[str] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        value = settings.get(name)
        entries = value if isinstance(value, list) else list(value.values()) if isinstance(value, Mapping) else []
        found += [text for text in map(spelling_of, entries) if text]
    return list(dict.fromkeys(found))
