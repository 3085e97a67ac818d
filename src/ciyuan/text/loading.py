"""Tokenisers from a folder, ours or another tool's: which files hold it, which tokens have which role, what goes around a text.

What the files leave open is decided as Hugging Face's classes decide it. Source: transformers 5, the classes of `KINDS`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors

from ciyuan.errors import TokenizerError
from ciyuan.text.files import GET_AGAIN, LARGEST_JSON, Files
from ciyuan.text.imported import (
    LARGEST,
    MOST_IDS,
    SPM_NAMES,
    Builder,
    read_gpt2,
    read_llama,
    read_mbart,
    read_mbart50,
    read_plain,
    read_qwen2,
    read_roberta,
    read_t5,
    read_wordpiece,
    read_xlm_roberta,
)
from ciyuan.text.special import Role, SpecialTokens

ROLES: tuple[Role, ...] = get_args(Role)
ChatTemplate = str | dict[str, str]
"""A Jinja template, or several by name. Nothing here runs one."""
MOST_ADDED = 2**15


@dataclass(frozen=True)
class Kind:
    """How a class of tokeniser reads its own files, and which tokens it has where nothing is said.

    needs: the files, any one of them. defaults: by role.
    """

    read: Builder
    needs: tuple[str, ...]
    defaults: Mapping[Role, str]


_END = "<|endoftext|>"
_BERT: Mapping[Role, str] = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_FAIRSEQ: Mapping[Role, str] = {
    "bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"
}  # fmt: skip
_SPM: Mapping[Role, str] = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_WORDPIECE = Kind(read_wordpiece, ("vocab.txt",), _BERT)
_GPT2 = Kind(read_gpt2, ("merges.txt",), {"bos": _END, "eos": _END, "unk": _END})
_ROBERTA = Kind(read_roberta, ("merges.txt",), _FAIRSEQ)
_LLAMA = Kind(read_llama, SPM_NAMES, _SPM)
_PLAIN = Kind(read_plain, SPM_NAMES, {"pad": "<pad>", **_SPM})

KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM"), _WORDPIECE),
    "GPT2": _GPT2,
    **dict.fromkeys(("Roberta", "Bart", "Longformer", "LED", "Mvp"), _ROBERTA),
    "Qwen2": Kind(read_qwen2, ("merges.txt",), {"eos": _END, "pad": _END, "unk": _END}),
    "Llama": _LLAMA,
    "Gemma": Kind(
        read_llama, SPM_NAMES, {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    ),
    **dict.fromkeys(("T5", "MT5"), Kind(read_t5, SPM_NAMES, {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"})),
    "XLMRoberta": Kind(read_xlm_roberta, SPM_NAMES, _FAIRSEQ),
    "MBart": Kind(read_mbart, SPM_NAMES, _FAIRSEQ),
    "MBart50": Kind(read_mbart50, SPM_NAMES, {role: text for role, text in _FAIRSEQ.items() if role != "bos"}),
}
"""By the class's name, less "Tokenizer" and "Fast"."""

MODEL_TYPES: Mapping[str, str] = {
    "bert": "Bert", "distilbert": "DistilBert", "electra": "Electra", "mobilebert": "MobileBert", "gpt2": "GPT2", "opt": "GPT2",
    "roberta": "Roberta", "bart": "Bart", "qwen2": "Qwen2", "qwen3": "Qwen2", "llama": "Llama", "mistral": "Llama",
    "gemma": "Gemma", "gemma2": "Gemma", "gemma3_text": "Gemma", "t5": "T5", "mt5": "T5", "xlm-roberta": "XLMRoberta",
    "mbart": "MBart",
}  # fmt: skip
"""The kind of a folder that names no class, by the model_type of its config.json."""

NO_CLASS = ("", "PreTrained", "TokenizersBackend")
"""Names of classes that say nothing."""

REFUSED: Mapping[str, str] = {
    "Marian": "source.spm, target.spm and vocab.json are two tokenisers in one",
    "M2M100": "the ids of vocab.json are not those of the SentencePiece model beside it",
}
"""Kinds that are known, and that one tokenizer.json cannot hold."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """What a folder holds. chat_template: as it was found."""

    backend: tokenizers.Tokenizer
    special: SpecialTokens
    chat_template: ChatTemplate | None


def load_folder(files: Files) -> LoadedTokenizer:
    """Raises TokenizerError where there is no tokeniser, or one that is damaged or not understood."""
    settings = _settings(files)
    about_model = files.read_json("config.json") or {}
    name = _class_name(settings, about_model)
    kind = KINDS.get(name)
    named: dict[Role, object] = {role: settings[f"{role}_token"] for role in ROLES if f"{role}_token" in settings}
    roles: dict[Role, str] = dict(kind.defaults) if kind is not None else {}
    for role, value in named.items():
        roles.pop(role, None)
        spelling = _spelling(value)
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
        _add(backend, settings, files, roles)
    # What only the class says it has, and the vocabulary has not, is not there; what the files name is.
    roles = {role: text for role, text in roles.items() if backend.token_to_id(text) is not None}
    if name in NO_CLASS and not named:
        roles = _usual(backend)
    _from_ids(backend, roles, named, about_model)
    with saying_panics(files.path):
        _frame(backend, roles, settings, files.path)
        _try(backend)
    return LoadedTokenizer(backend, _special(backend, roles, settings), _chat_template(settings, files))


def load_file(path: Path) -> LoadedTokenizer:
    """A tokenizer.json, a SentencePiece model, a vocab.txt, or one of vocab.json and merges.txt, with what lies beside it."""
    files = Files(path.parent)
    if path.suffix in (".model", ".spm"):
        raw = files.read_bytes(path.name, LARGEST)
        if raw is None:
            raise TokenizerError("there is no such tokeniser", where=path)
        alone = _One(path, raw)
        backend = read_plain(alone, _PLAIN.defaults, {})
        backend.encode_special_tokens = True
        roles = {role: text for role, text in _PLAIN.defaults.items() if backend.token_to_id(text) is not None}
        with saying_panics(path):
            _try(backend)
        return LoadedTokenizer(backend, _special(backend, roles, {}), None)
    if path.name in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt") and files.find(path.name) is not None:
        return load_folder(files)
    raw = files.read_bytes(path.name, LARGEST)
    if raw is None:
        raise TokenizerError("there is no such tokeniser", where=path, fix="name a folder with a tokenizer.json")
    backend = parse_backend(raw, where=path)
    backend.encode_special_tokens = True
    with saying_panics(path):
        _try(backend)
    return LoadedTokenizer(backend, _special(backend, _usual(backend), {}), None)


class _One(Files):
    """A file that stands alone, whatever it is called."""

    def __init__(self, path: Path, raw: bytes) -> None:
        super().__init__(path.parent)
        self._raw = raw

    def read_bytes(self, name: str, largest: int) -> bytes | None:
        return self._raw


def parse_backend(raw: bytes, *, where: object) -> tokenizers.Tokenizer:
    """The tokeniser that a tokenizer.json describes."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"the tokeniser cannot be read: {error}", where=where) from None
    if _LONG.search(text):
        _check_ids(text, where)
    try:
        with _quietly():
            return tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001  (a hostile file makes the library panic, past Exception)
        raise TokenizerError(f"this is not a tokeniser: {_printable(error)}", where=where) from None


_LONG = re.compile(r":\s*[0-9]{7,}\s*[,}]")
"""A whole number as an id might be, of a million or more."""


def _check_ids(text: str, where: object) -> None:
    """Raises TokenizerError at an id for which the library would fill the memory: it makes a row for each up to the largest."""
    try:
        found = json.loads(text)
        vocab, added = found["model"]["vocab"], found.get("added_tokens") or []
        ids = [*(vocab.values() if isinstance(vocab, dict) else ()), *(token["id"] for token in added)]
        largest = max((number for number in ids if isinstance(number, int)), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # the library says what is wrong with it
    if largest >= MOST_IDS:
        raise TokenizerError(f"has the id {largest:,}", where=where, allowed=f"ids are less than {MOST_IDS:,}")


@contextmanager
def saying_panics(where: object = None) -> Iterator[None]:
    """The library's panics, which are no Exceptions, as a TokenizerError; and what it raises of its own."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException" or type(error) is Exception:
            raise TokenizerError(f"the tokeniser is damaged: {_printable(error)}", where=where, fix=GET_AGAIN) from None
        raise


def _try(backend: tokenizers.Tokenizer) -> None:
    """Use everything once, so that what cannot work is found now."""
    with _quietly():
        encoding = backend.encode("Try it: 试一下 1 é。\n", add_special_tokens=True)
        backend.encode("a", "b", add_special_tokens=True)
        backend.decode(encoding.ids)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the pages that the library writes to the terminal as it panics; what is said is said by us."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _printable(error: object) -> str:
    return ascii(str(error))[1:-1][:160]


# --- Which files --------------------------------------------------------------------------------------------------------


def _settings(files: Files) -> dict[str, Any]:
    """tokenizer_config.json, and what older releases wrote into special_tokens_map.json instead."""
    settings = files.read_json("tokenizer_config.json") or {}
    if "added_tokens_decoder" not in settings:
        settings |= files.read_json("special_tokens_map.json") or {}
    return settings


def _class_name(settings: Mapping[str, Any], about_model: Mapping[str, Any]) -> str:
    found = settings.get("tokenizer_class") or about_model.get("tokenizer_class")
    name = found.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(found, str) else ""
    if name in NO_CLASS and "tokenizer_class" not in settings:
        model_type = about_model.get("model_type")
        return MODEL_TYPES.get(model_type, "") if isinstance(model_type, str) else ""
    return name


def _of_other_files(
    files: Files, name: str, kind: Kind | None, roles: Mapping[Role, str], settings: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    if name in REFUSED or files.find("source.spm") is not None:
        raise TokenizerError(
            REFUSED.get(name, REFUSED["Marian"]), where=files.path,
            allowed="one tokenizer.json cannot hold that, so it is not read",
        )  # fmt: skip
    if kind is None and name in NO_CLASS:
        for other in (_WORDPIECE, _GPT2, _PLAIN):  # a folder with nothing but a vocabulary
            if _has(files, other):
                return other.read(files, {**other.defaults, **roles}, settings)
    if kind is not None and _has(files, kind):
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


def _has(files: Files, kind: Kind) -> bool:
    return any(files.find(name) is not None for name in kind.needs)


def _override(backend: tokenizers.Tokenizer, name: str, settings: Mapping[str, Any]) -> None:
    """What the class takes from tokenizer_config.json whatever tokenizer.json says."""
    if isinstance(backend.normalizer, normalizers.BertNormalizer) and KINDS.get(name) is _WORDPIECE:
        normalizer = backend.normalizer
        for setting, field in (("do_lower_case", "lowercase"), ("tokenize_chinese_chars", "handle_chinese_chars")):
            if isinstance(settings.get(setting), bool):
                setattr(normalizer, field, settings[setting])
        if isinstance(settings.get("strip_accents"), bool):
            normalizer.strip_accents = settings["strip_accents"]
        backend.normalizer = normalizer
    cut = backend.pre_tokenizer
    prefix = settings.get("add_prefix_space")
    if isinstance(cut, pre_tokenizers.ByteLevel) and isinstance(prefix, bool) and KINDS.get(name) in (_GPT2, _ROBERTA):
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=prefix, trim_offsets=cut.trim_offsets, use_regex=cut.use_regex
        )


# --- Which tokens -------------------------------------------------------------------------------------------------------


def _add(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], files: Files, roles: Mapping[Role, str]) -> None:
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
                f"{_printable(token.content)} is to have the id {number:,}, and would have {found:,}", where=where,
                fix=GET_AGAIN,
            )  # fmt: skip
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    spelt = [_spelling(settings.get(f"{role}_token")) for role in ROLES]
    named = [one for one in spelt if one is not None]
    wanted = [text for text in (*named, *further) if text not in known]
    here = [text for text in roles.values() if text not in known and backend.token_to_id(text) is not None]
    backend.add_special_tokens([_plain(text, special=True) for text in dict.fromkeys((*wanted, *here))])


def _token_id(key: object, where: object) -> int:
    text = str(key)
    if isinstance(key, bool) or not text.isdecimal() or len(text) > 8:
        raise TokenizerError(f"{_printable(text)} is no id of an added token", where=where)
    return int(text)


def _added(value: object, where: object, special: set[str]) -> AddedToken:
    content = _spelling(value)
    if not content or not isinstance(value, Mapping):
        raise TokenizerError("an added token has no content", where=where)
    flags = {name: value.get(name, False) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise TokenizerError(f"{_printable(content)}: lstrip and the like are true or false", where=where)
    flags["special"] = flags["special"] or content in special
    return AddedToken(content, **flags)


def _plain(text: str, *, special: bool) -> AddedToken:
    return AddedToken(text, normalized=not special, special=special)


def _usual(backend: tokenizers.Tokenizer) -> dict[Role, str]:
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


def _from_ids(
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


def _special(backend: tokenizers.Tokenizer, roles: Mapping[Role, str], settings: Mapping[str, Any]) -> SpecialTokens:
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


def _spelling(value: object) -> str | None:
    """A token as a configuration names it: its text, or an object whose content is its text."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _further(settings: Mapping[str, Any]) -> list[str]:
    """The special tokens without a role, under the name that transformers 4 or 5 gives them."""
    found: list[str] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        value = settings.get(name)
        entries = value if isinstance(value, list) else list(value.values()) if isinstance(value, Mapping) else []
        found += [text for text in map(_spelling, entries) if text]
    return list(dict.fromkeys(found))


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
