"""The tokeniser: text to ids and back, special tokens by role, one file on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import processors

from ciyuan.errors import TokenizerError
from ciyuan.text.settings import TokenizerSettings
from ciyuan.text.special import Role, SpecialTokens
from ciyuan.text.training import Sample, train_backend

Template = Literal["eos", "cls-sep", "none"]
"""What other tools put around a text: `text </s>`, `[CLS] text [SEP]`, or nothing."""

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

    @staticmethod
    def train(
        texts: Iterable[str],
        settings: TokenizerSettings | None = None,
        special: SpecialTokens | None = None,
        *,
        template: Template = "eos",
    ) -> Tokenizer:
        """Learn from texts. `sample` then says how many of their bytes were read under the memory ceiling."""
        special = SpecialTokens() if special is None else special
        backend, sample = train_backend(texts, TokenizerSettings() if settings is None else settings, special)
        tokenizer = Tokenizer(backend, special)
        tokenizer.sample = sample
        tokenizer._frame(template)
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
            for number, text in enumerate(texts):
                for place, character in enumerate(text):
                    if "\ud800" <= character <= "\udfff":
                        raise TokenizerError(
                            f"character {place + 1} is a lone surrogate (U+{ord(character):04X}), which is not text",
                            where=f"text {number + 1}",
                        ) from None
            raise

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
        head, tail = ("cls", "sep") if template == "cls-sep" else (None, "eos")
        spelt = self.special.by_role()
        start = [] if head is None else [spelt["cls"]]
        end = spelt["sep" if tail == "sep" else "eos"]
        self.backend.post_processor = processors.TemplateProcessing(
            single=[*start, "$A:0", f"{end}:0"],
            pair=[*start, "$A:0", f"{end}:0", "$B:1", f"{end}:1"],
            special_tokens=[(token, self.backend.token_to_id(token)) for token in [*start, end]],
        )


def _special_of(backend: tokenizers.Tokenizer, config_file: Path) -> SpecialTokens:
    """The roles that tokenizer_config.json names, or, without it, those that the usual spellings give away."""
    spelt: dict[str, str | None] = {}
    if config_file.is_file():
        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TokenizerError(f"this is not JSON: {error}", where=config_file) from None
        for role, name in _CONFIG_NAMES.items():
            value = config.get(name) if isinstance(config, dict) else None
            spelling = value.get("content") if isinstance(value, dict) else value
            spelt[role] = spelling if isinstance(spelling, str) else None
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
    if spelt.get("pad") is None:
        raise TokenizerError("this tokeniser has no PAD token", where=config_file, fix="add a pad_token to that file")
    return SpecialTokens(**spelt)  # type: ignore[arg-type]
