"""Tokenisers from a folder, ours or another tool's: which files hold it, which tokens have which role, what goes around a text.

What the files leave open is decided as Hugging Face's classes decide it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors

from ciyuan.errors import TokenizerError
from ciyuan.text.files import LARGEST_JSON, Files
from ciyuan.text.guarded import parse_backend, saying_panics, try_everything
from ciyuan.text.imported import LARGEST, SPM_NAMES
from ciyuan.text.kinds import GPT2, KINDS, MARIAN, NO_CLASS, PLAIN, ROBERTA, WORDPIECE, Kind, class_name
from ciyuan.text.renumbered import reads_only, strangers
from ciyuan.text.roles import ROLES, add_tokens, roles_by_ids, special_tokens, spelling_of, usual_roles
from ciyuan.text.special import Role, SpecialTokens

READS_ONLY = "reads_only"
"""The key of tokenizer_config.json, for ourselves: see `LoadedTokenizer`."""
ChatTemplate = str | dict[str, str]
"""A Jinja template, or several by name. Nothing here runs one."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """What a folder holds. chat_template: as it was found. reads_only: what the model writes is cut by another tokeniser.

    notes: where ids are not those of transformers, in words.
    """

    backend: tokenizers.Tokenizer
    special: SpecialTokens
    chat_template: ChatTemplate | None
    reads_only: bool = False
    notes: tuple[str, ...] = ()


def load_folder(files: Files) -> LoadedTokenizer:
    """Raises TokenizerError where there is no tokeniser, or one that is damaged or not understood."""
    settings = _settings(files)
    about_model = files.read_json("config.json") or {}
    name = class_name(settings, about_model)
    kind = KINDS.get(name)
    named: dict[Role, object] = {role: settings[f"{role}_token"] for role in ROLES if f"{role}_token" in settings}
    roles: dict[Role, str] = dict(kind.defaults) if kind is not None else {}
    for role, value in named.items():
        roles.pop(role, None)
        spelling = spelling_of(value)
        if spelling is not None:
            roles[role] = spelling
    raw = files.read_bytes("tokenizer.json", LARGEST)
    if raw is not None:
        backend = parse_backend(raw, where=files.path / "tokenizer.json")
        _override(backend, name, settings)
    else:
        backend = _of_other_files(files, name, kind, roles, settings)
    backend.encode_special_tokens = True
    with saying_panics(files.path):
        add_tokens(backend, settings, files, roles)
    # What only the class says it has, and the vocabulary has not, is not there; what the files name is.
    roles = {role: text for role, text in roles.items() if backend.token_to_id(text) is not None}
    if name in NO_CLASS and not named:
        roles = usual_roles(backend)
    roles_by_ids(backend, roles, named, about_model)
    with saying_panics(files.path):
        _frame(backend, roles, settings, files.path)
        try_everything(backend)
    note = strangers(files) if raw is None and kind is not None and kind.renumbers else None
    return LoadedTokenizer(
        backend,
        special_tokens(backend, roles, settings),
        _chat_template(settings, files),
        reads_only=settings.get(READS_ONLY) is True or reads_only(files),
        notes=() if note is None else (note,),
    )


def load_file(path: Path) -> LoadedTokenizer:
    """A tokenizer.json, a SentencePiece model, a vocab.txt, or one of vocab.json and merges.txt, with what lies beside it."""
    files = Files(path.parent)
    if path.suffix in (".model", ".spm"):
        raw = files.read_bytes(path.name, LARGEST)
        if raw is None:
            raise TokenizerError("there is no such tokeniser", where=path)
        alone = _One(path, raw)
        backend = PLAIN.read(alone, PLAIN.defaults, {})
        backend.encode_special_tokens = True
        roles = {role: text for role, text in PLAIN.defaults.items() if backend.token_to_id(text) is not None}
        with saying_panics(path):
            try_everything(backend)
        return LoadedTokenizer(backend, special_tokens(backend, roles, {}), None)
    if path.name in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt") and files.find(path.name) is not None:
        return load_folder(files)
    raw = files.read_bytes(path.name, LARGEST)
    if raw is None:
        raise TokenizerError("there is no such tokeniser", where=path, fix="name a folder with a tokenizer.json")
    backend = parse_backend(raw, where=path)
    backend.encode_special_tokens = True
    with saying_panics(path):
        try_everything(backend)
    return LoadedTokenizer(backend, special_tokens(backend, usual_roles(backend), {}), None)


class _One(Files):
    """A file that stands alone, whatever it is called."""

    def __init__(self, path: Path, raw: bytes) -> None:
        super().__init__(path.parent)
        self._raw = raw

    def read_bytes(self, name: str, largest: int) -> bytes | None:
        return self._raw


# --- Which files --------------------------------------------------------------------------------------------------------


def _settings(files: Files) -> dict[str, Any]:
    """tokenizer_config.json, and what older releases wrote into special_tokens_map.json instead."""
    settings = files.read_json("tokenizer_config.json") or {}
    if "added_tokens_decoder" not in settings:
        settings |= files.read_json("special_tokens_map.json") or {}
    return settings


def _of_other_files(
    files: Files, name: str, kind: Kind | None, roles: Mapping[Role, str], settings: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    if kind is None and name in NO_CLASS:
        for other in (MARIAN, WORDPIECE, GPT2, PLAIN):  # a folder with nothing but a vocabulary
            if other.lies_in(files):
                return other.read(files, {**other.defaults, **roles}, settings)
    if kind is not None and kind.lies_in(files):
        return kind.read(files, roles, settings)
    known = ("vocab.txt", "vocab.json", *SPM_NAMES)
    found = [each for each in known if files.find(each) is not None]
    if found and kind is None:
        raise TokenizerError(
            f"the tokeniser {ascii(name)[1:-1][:60]} with {found[0]} is not known", where=files.path,
            allowed=f"without a tokenizer.json: {', '.join(f'{each}Tokenizer' for each in KINDS)}",
        )  # fmt: skip
    raise TokenizerError(
        "there is no such tokeniser: no tokenizer.json, vocab.txt, vocab.json with merges.txt, or SentencePiece model",
        where=files.path, fix="name a folder with a tokenizer.json",
    )  # fmt: skip


def _override(backend: tokenizers.Tokenizer, name: str, settings: Mapping[str, Any]) -> None:
    """What the class takes from tokenizer_config.json whatever tokenizer.json says."""
    if isinstance(backend.normalizer, normalizers.BertNormalizer) and KINDS.get(name) is WORDPIECE:
        normalizer = backend.normalizer
        for setting, field in (("do_lower_case", "lowercase"), ("tokenize_chinese_chars", "handle_chinese_chars")):
            if isinstance(settings.get(setting), bool):
                setattr(normalizer, field, settings[setting])
        if isinstance(settings.get("strip_accents"), bool):
            normalizer.strip_accents = settings["strip_accents"]
        backend.normalizer = normalizer
    cut = backend.pre_tokenizer
    prefix = settings.get("add_prefix_space")
    if isinstance(cut, pre_tokenizers.ByteLevel) and isinstance(prefix, bool) and KINDS.get(name) in (GPT2, ROBERTA):
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=prefix, trim_offsets=cut.trim_offsets, use_regex=cut.use_regex
        )


# --- What goes around a text --------------------------------------------------------------------------------------------


def _frame(
    backend: tokenizers.Tokenizer, roles: Mapping[Role, str], settings: Mapping[str, Any], where: object
) -> None:
    """add_bos_token and add_eos_token, where either is said, go before the template that the tokeniser brings."""
    said = {role: settings.get(f"add_{role}_token") for role in ("bos", "eos")}
    if not any(isinstance(value, bool) for value in said.values()):
        return
    head, tail = ([roles[role]] if said[role] is True and role in roles else [] for role in ("bos", "eos"))
    backend.post_processor = processors.TemplateProcessing(
        single=[*head, "$A:0", *tail],
        pair=[*head, "$A:0", *tail, *(f"{text}:1" for text in head), "$B:1", *(f"{text}:1" for text in tail)],
        special_tokens=[(text, backend.token_to_id(text)) for text in dict.fromkeys((*head, *tail))],
    )


# --- Chats --------------------------------------------------------------------------------------------------------------


def _chat_template(settings: Mapping[str, Any], files: Files) -> ChatTemplate | None:
    """chat_template.jinja, or what tokenizer_config.json has: a template, or a list of them with names."""
    raw = files.read_bytes("chat_template.jinja", LARGEST_JSON)
    if raw is not None:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise TokenizerError("is not UTF-8", where=files.path / "chat_template.jinja") from None
    found = settings.get("chat_template")
    if found is None or isinstance(found, str):
        return found
    named: dict[str, str] = {}
    for entry in found if isinstance(found, list) else [None]:
        name, text = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str) or name in named:
            raise TokenizerError(
                "chat_template is neither a text nor a list of templates with names",
                where=files.path / "tokenizer_config.json",
            )
        named[name] = text
    return named


def write_chat_template(template: ChatTemplate) -> object:
    """The value of chat_template in a tokenizer_config.json.

    >>> write_chat_template({"default": "{{ x }}"})
    [{'name': 'default', 'template': '{{ x }}'}]
    """
    if isinstance(template, str):
        return template
    return [{"name": name, "template": text} for name, text in template.items()]
