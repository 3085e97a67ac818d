"""The tokeniser: text to ids and back, special tokens by role, one file on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import processors

from ciyuan.errors import TokenizerError
from ciyuan.text import chat
from ciyuan.text.offsets import Offsets, lossless_offsets
from ciyuan.text.pieces import ESCAPE
from ciyuan.text.settings import TokenizerSettings
from ciyuan.text.special import Role, SpecialTokens
from ciyuan.text.training import Sample, train_backend

Template = Literal["eos", "bos", "bos-eos", "cls-sep", "none"]
"""What other tools put around a text: `text </s>`, `<s> text`, `<s> text </s>`, `[CLS] text [SEP]`, or nothing."""

_CONFIG_NAMES: dict[Role, str] = {role: f"{role}_token" for role in ("pad", "bos", "eos", "unk", "mask", "cls", "sep")}


class Tokenizer:
    """Wraps `tokenizers`; ids are rows of the vocabulary.

    decode(encode(text)) is the text, for every str without lone surrogates and every kind but WordPiece, which forgets spaces.
    The spelling of a special token inside a text is text: only code writes special tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special: SpecialTokens) -> None:
        self.backend, self.special = backend, special
        self.backend.encode_special_tokens = True
        self.backend.no_padding()
        self.backend.no_truncation()
        missing = [spelling for spelling in special.spellings() if backend.token_to_id(spelling) is None]
        if missing:
            raise TokenizerError(f"the special tokens {', '.join(missing)} are not in the vocabulary")
        self.sample: Sample | None = None
        # The library follows replacements of one character by two only roughly: ours are followed by our own count.
        self._escapes = backend.normalizer is not None and backend.normalizer.normalize_str(ESCAPE).endswith(ESCAPE + "0")

    @staticmethod
    def train(
        texts: Iterable[str],
        settings: TokenizerSettings | None = None,
        special: SpecialTokens | None = None,
        *,
        template: Template | None = None,
    ) -> Tokenizer:
        """Learn from texts. `sample` then says how many of their bytes were read under the memory ceiling.

        template: None takes what the special tokens allow: "cls-sep" with CLS and SEP, else "eos", else "none".
        """
        special = SpecialTokens() if special is None else special
        backend, sample = train_backend(texts, TokenizerSettings() if settings is None else settings, special)
        tokenizer = Tokenizer(backend, special)
        tokenizer.sample = sample
        tokenizer._frame(_usual_template(special) if template is None else template)
        return tokenizer

    @staticmethod
    def load(path: str | Path) -> Tokenizer:
        """From a folder with tokenizer.json and tokenizer_config.json, or from a tokenizer.json alone.

        Raises TokenizerError where the file is missing or is no tokeniser.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise TokenizerError(
                "there is no such tokeniser", where=file, fix="name a folder with a tokenizer.json"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"the tokeniser cannot be read: {error}", where=file) from None
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # noqa: BLE001  (a hostile file makes the library panic, past Exception)
            raise TokenizerError(f"this is not a tokeniser: {str(error)[:200]}", where=file) from None
        return Tokenizer(backend, _special_of(backend, file.with_name("tokenizer_config.json")))

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer loads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (folder / name).write_text(content, encoding="utf-8")

    def files(self) -> dict[str, str]:
        """What `save` writes: file name to content."""
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "padding_side": "right",
            "model_input_names": ["input_ids", "attention_mask"],
        }
        config |= {_CONFIG_NAMES[role]: spelling for role, spelling in self.special.by_role().items()}
        if self.special.extra:
            config["additional_special_tokens"] = list(self.special.extra)
        if set(chat.MARKERS) <= set(self.special.extra):
            config["chat_template"] = chat.template(self.special)
        return {
            "tokenizer.json": self.backend.to_str(pretty=True),
            "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        }

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, no special tokens around it. Raises TokenizerError at a lone surrogate."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts at once, in parallel."""
        try:
            return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except (UnicodeEncodeError, TypeError):
            _refuse_surrogates(texts)
            raise

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """`encode`, and for each id the (start, end) of its characters: text[start:end] is what the token spells.

        Bytes of one character all have that character's place; what stands for nothing in the text, such as the ▁ that begins
        it, is empty. A kind that forgets spaces leaves them out.
        """
        return self.encode_batch_with_offsets([text])[0]

    def encode_batch_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], Offsets]]:
        """Many texts at once."""
        try:
            encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            _refuse_surrogates(texts)
            raise
        if not self._escapes:
            return [(encoding.ids, encoding.offsets) for encoding in encodings]
        normalize = self.backend.normalizer.normalize_str
        return [
            (encoding.ids, lossless_offsets(text, normalize(text), encoding.tokens))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids; special tokens left out, or spelt."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def decode_batch(self, rows: Sequence[Sequence[int]], *, skip_special: bool = True) -> list[str]:
        plain = [[int(i) for i in row] for row in rows]
        return self.backend.decode_batch(plain, skip_special_tokens=skip_special)

    def token(self, token_id: int) -> str:
        """The piece of an id, as the vocabulary spells it."""
        piece = self.backend.id_to_token(int(token_id))
        if piece is None:
            raise TokenizerError(f"{token_id} is no id of this tokeniser", allowed=f"ids are 0 … {self.vocab_size - 1}")
        return piece

    def id_of_token(self, piece: str) -> int:
        """The id of a piece, special or not, as the vocabulary spells it. Raises TokenizerError where there is none."""
        found = self.backend.token_to_id(piece)
        if found is None:
            raise TokenizerError(f"this tokeniser has no token {piece}")
        return found

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the ids: equal fingerprints, equal ids."""
        content = json.dumps(json.loads(self.backend.to_str()), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def pad_id(self) -> int:
        return self.id_of("pad")

    @property
    def bos_id(self) -> int:
        return self.id_of("bos")

    @property
    def eos_id(self) -> int:
        return self.id_of("eos")

    @property
    def unk_id(self) -> int:
        return self.id_of("unk")

    @property
    def mask_id(self) -> int:
        return self.id_of("mask")

    @property
    def cls_id(self) -> int:
        return self.id_of("cls")

    @property
    def sep_id(self) -> int:
        return self.id_of("sep")

    def id_of(self, role: Role) -> int:
        """The id of a role's token. Raises TokenizerError where the tokeniser has no such role."""
        spelling = self.special.by_role().get(role)
        if spelling is None:
            raise TokenizerError(f"this tokeniser has no {role.upper()} token")
        found = self.backend.token_to_id(spelling)
        assert found is not None, "the roles' tokens were looked up when the tokeniser was made"
        return found

    def has(self, role: Role) -> bool:
        return role in self.special.by_role()

    def _frame(self, template: Template) -> None:
        """Tell other tools what goes around a text; our own code puts special tokens where they belong itself."""
        if template == "none":
            return
        around: dict[Template, tuple[Role | None, Role | None]] = {
            "eos": (None, "eos"), "bos": ("bos", None), "bos-eos": ("bos", "eos"), "cls-sep": ("cls", "sep"),
        }  # fmt: skip
        spelt = self.special.by_role()
        head, tail = ([spelt[role]] if role is not None else [] for role in around[template])
        second = 0 if template == "bos" else 1
        self.backend.post_processor = processors.TemplateProcessing(
            single=[*head, "$A:0", *(f"{token}:0" for token in tail)],
            pair=[*head, "$A:0", *(f"{token}:0" for token in tail), f"$B:{second}", *(f"{token}:1" for token in tail)],
            special_tokens=[(token, self.backend.token_to_id(token)) for token in [*head, *tail]],
        )


def _usual_template(special: SpecialTokens) -> Template:
    if special.cls is not None and special.sep is not None:
        return "cls-sep"
    return "none" if special.eos is None else "eos"


def _refuse_surrogates(texts: Sequence[str]) -> None:
    """Raises TokenizerError at the first lone surrogate."""
    for number, text in enumerate(texts):
        for place, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                raise TokenizerError(
                    f"character {place + 1} is a lone surrogate (U+{ord(character):04X}), which is not text",
                    where=f"text {number + 1}",
                ) from None


def _special_of(backend: tokenizers.Tokenizer, config_file: Path) -> SpecialTokens:
    """The roles that tokenizer_config.json names, or, without it, those that the usual spellings give away."""
    spelt: dict[str, str | None] = {}
    extra: list[str] = []
    if config_file.is_file():
        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TokenizerError(f"this is not JSON: {error}", where=config_file) from None
        for role, name in _CONFIG_NAMES.items():
            value = config.get(name) if isinstance(config, dict) else None
            spelt[role] = _spelling(value)
        extra = [token for token in _further(config) if backend.token_to_id(token) is not None]
    else:
        usual = {
            "pad": ("<pad>", "[PAD]", "<|pad|>"),
            "bos": ("<s>", "<bos>"),
            "eos": ("</s>", "<eos>", "<|endoftext|>"),
            "unk": ("<unk>", "[UNK]"),
            "mask": ("<mask>", "[MASK]"),
            "cls": ("[CLS]",),
            "sep": ("[SEP]",),
        }
        for usual_role, spellings in usual.items():
            spelt[usual_role] = next((text for text in spellings if backend.token_to_id(text) is not None), None)
        extra = [token for token in chat.MARKERS if backend.token_to_id(token) is not None]
    if spelt.get("pad") is None:
        raise TokenizerError("this tokeniser has no PAD token", where=config_file, fix="add a pad_token to that file")
    roles = set(spelt.values())
    return SpecialTokens(**spelt, extra=tuple(token for token in extra if token not in roles))  # type: ignore[arg-type]


def _spelling(value: object) -> str | None:
    """A token as a configuration names it: its text, or an object whose content is its text."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _further(config: object) -> list[str]:
    """The special tokens without a role, under the name that transformers 4 or 5 gives them."""
    if not isinstance(config, Mapping):
        return []
    found: list[str] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        value = config.get(name)
        entries = value if isinstance(value, list) else list(value.values()) if isinstance(value, Mapping) else []
        found += [text for text in map(_spelling, entries) if text is not None]
    return list(dict.fromkeys(found))
