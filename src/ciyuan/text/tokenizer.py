"""The tokeniser: text to ids and back, special tokens by role, one file on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import processors

from ciyuan.errors import TokenizerError
from ciyuan.text import chat
from ciyuan.text.files import Files
from ciyuan.text.guarded import saying_panics
from ciyuan.text.loading import (
    READS_ONLY,
    ChatTemplate,
    LoadedTokenizer,
    load_file,
    load_folder,
    write_chat_template,
)
from ciyuan.text.offsets import Offsets, lossless_offsets
from ciyuan.text.pieces import ESCAPE
from ciyuan.text.settings import TokenizerSettings
from ciyuan.text.special import Role, SpecialTokens
from ciyuan.text.training import Sample, train_backend

Template = Literal["eos", "bos", "bos-eos", "cls-sep", "none"]
"""What other tools put around a text: `text </s>`, `<s> text`, `<s> text </s>`, `[CLS] text [SEP]`, or nothing."""


@dataclass(frozen=True)
class Around:
    """The ids that other tools put around a text, and where there are two, from the end of the first to the beginning of the
    second: BERT's [SEP], RoBERTa's </s></s>."""

    head: tuple[int, ...]
    tail: tuple[int, ...]
    between: tuple[int, ...]


_CONFIG_NAMES: dict[Role, str] = {role: f"{role}_token" for role in ("pad", "bos", "eos", "unk", "mask", "cls", "sep")}


class Tokenizer:
    """Wraps `tokenizers`; ids are rows of the vocabulary.

    decode(encode(text)) is the text, for every str without lone surrogates and every kind but WordPiece, which forgets spaces.
    The spelling of a special token inside a text is text: only code writes special tokens.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, special: SpecialTokens, *, chat_template: ChatTemplate | None = None
    ) -> None:
        self.backend, self.special = backend, special
        self.reads_only, self.notes = False, tuple[str, ...]()
        self.chat_template = chat_template
        """Of an imported model, kept and saved as it is; None: ours, where there are the markers of chats."""
        self.backend.encode_special_tokens = True
        self.backend.no_padding()
        self.backend.no_truncation()
        missing = [spelling for spelling in special.spellings() if backend.token_to_id(spelling) is None]
        if missing:
            raise TokenizerError(f"the special tokens {', '.join(missing)} are not in the vocabulary")
        self.sample: Sample | None = None
        # The library follows replacements of one character by two only roughly: ours are followed by our own count.
        self._escapes = backend.normalizer is not None and backend.normalizer.normalize_str(ESCAPE).endswith(
            ESCAPE + "0"
        )

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
        tokenizer.frame(_usual_template(special) if template is None else template)
        return tokenizer

    @staticmethod
    def load(path: str | Path) -> Tokenizer:
        """From a folder, ours or another tool's, or from one file: a tokenizer.json, a vocab.txt, a SentencePiece model.

        Raises TokenizerError where there is none, or one that is damaged; ModelFolderError where a file leads out of the folder.
        """
        place = Path(path)
        try:
            is_folder, is_file = place.is_dir(), place.is_file()
        except (OSError, ValueError):
            is_folder = is_file = False
        if not (is_folder or is_file):
            raise TokenizerError("there is no such tokeniser", where=place, fix="name a folder with a tokenizer.json")
        return Tokenizer.from_files(Files(place)) if is_folder else Tokenizer._of(load_file(place))

    @staticmethod
    def from_files(files: Files) -> Tokenizer:
        """`load`, by way of a folder that is opened already."""
        return Tokenizer._of(load_folder(files))

    @staticmethod
    def _of(loaded: LoadedTokenizer) -> Tokenizer:
        tokenizer = Tokenizer(loaded.backend, loaded.special, chat_template=loaded.chat_template)
        tokenizer.reads_only, tokenizer.notes = loaded.reads_only, loaded.notes
        return tokenizer

    def check_writes(self) -> None:
        """Raises TokenizerError where what the model writes is cut by another tokeniser, which is not here: it cannot be taught."""
        if self.reads_only:
            raise TokenizerError(
                "this tokeniser cuts what its model reads; what it writes was cut by another, target.spm",
                allowed="translating, and evaluating translations", fix="train a new model on these texts, without --init",
            )  # fmt: skip

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
        if self.special.pad is None:
            config["pad_token"] = self.special.eos  # other tools fill rows with it, and mask them
        if self.reads_only:
            config[READS_ONLY] = True
        if self.special.extra:
            config["additional_special_tokens"] = list(self.special.extra)
        if self.chat_template is not None:
            config["chat_template"] = write_chat_template(self.chat_template)
        elif set(chat.MARKERS) <= set(self.special.extra):
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
            with saying_panics():
                return [
                    encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
                ]
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
            with saying_panics():
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
        """What fills rows: PAD, or EOS where there is no PAD. Either way it is masked by its position, not by what it is."""
        return self.id_of("pad" if self.has("pad") else "eos")

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

    @property
    def begins_with_bos(self) -> bool:
        """Whether BOS goes before a text, by the template that other tools use; GPT-2 and Qwen have none there."""
        return self.has("bos") and self.around.head[:1] == (self.bos_id,)

    @property
    def around(self) -> Around:
        """By the template that other tools use."""
        one, two = (list(zip(each.ids, each.special_tokens_mask)) for each in
                    (self.backend.encode("a"), self.backend.encode("a", "b")))  # fmt: skip
        head, tail = (tuple(token for token, _ in takewhile(_is_added, some)) for some in (one, reversed(one)))
        within = two[len(head) : len(two) - len(tail)]
        return Around(head, tail[::-1], tuple(token for token, added in within if added))

    def frame(self, template: Template) -> None:
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


def _is_added(pair: tuple[int, int]) -> bool:
    """Of an id and its mark."""
    return pair[1] == 1


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
