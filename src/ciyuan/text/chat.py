"""Turn-taking as one text: ChatML, which other tools know, with the assistant's words marked as what is to be learnt.

<s><|im_start|>user
你好<|im_end|>
<|im_start|>assistant
您好！<|im_end|>          supervised: 您 好 ！ <|im_end|>
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ciyuan.errors import UserError
from ciyuan.text.special import SpecialTokens

if TYPE_CHECKING:
    from ciyuan.text.tokenizer import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"
MARKERS = (START, END)
"""What `SpecialTokens.extra` must hold for a tokeniser to know chats."""

ROLES = ("system", "user", "assistant")

Message = Mapping[str, str]
"""{"role": one of ROLES, "content": its words}"""


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation with all its markers, and for each whether it is to be learnt (1) or only read (0).

    turns[i]: tokens up to the end of message i.
    """

    tokens: list[int]
    supervised: list[int]
    turns: list[int]


def render(messages: Sequence[Message], tokenizer: Tokenizer) -> Rendered:
    """A conversation for training: the assistant's words and the marker that ends them are supervised.

    The ids are those of `template`, but that a marker's spelling inside a message stays text.
    Raises UserError at an unknown role, TokenizerError where the tokeniser has no markers.
    """
    start, end = (tokenizer.id_of_token(marker) for marker in MARKERS)
    line_break = tokenizer.encode("\n")
    tokens = [tokenizer.bos_id] if tokenizer.has("bos") else []
    supervised, turns = [0] * len(tokens), []
    for head, message in zip(_heads(messages), messages, strict=True):
        ids, offsets = tokenizer.encode_with_offsets(head + message["content"].strip())
        learnt = message["role"] == "assistant"
        tokens += [start, *ids, end, *line_break]
        supervised += [0, *(int(learnt and first >= len(head)) for first, _ in offsets), int(learnt)]
        turns.append(len(supervised))
        supervised += [0] * len(line_break)
    return Rendered(tokens, supervised, turns)


def prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The ids after which the assistant's next words follow, BOS included where there is one.

    They begin every `render` of the same messages with one more of the assistant's.
    """
    tokens = render(messages, tokenizer).tokens
    return [*tokens, tokenizer.id_of_token(START), *tokenizer.encode("assistant\n")]


def end_id(tokenizer: Tokenizer) -> int:
    """The id that ends a message. Raises TokenizerError where the tokeniser has none."""
    return tokenizer.id_of_token(END)


def template(special: SpecialTokens) -> str:
    """The same as a Jinja template, for `chat_template` in tokenizer_config.json."""
    begin = "{{ bos_token }}" if special.bos is not None else ""
    return (
        f"{begin}{{% for message in messages %}}"
        f"{{{{ '{START}' + message['role'] + '\\n' + message['content'] | trim + '{END}\\n' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\\n' }}}}{{% endif %}}"
    )


def plain(messages: Sequence[Message]) -> str:
    """The words of a conversation without markers: what a tokeniser learns from, and what repetitions are known by."""
    texts = (head + message["content"].strip() for head, message in zip(_heads(messages), messages, strict=True))
    return "\n".join(texts)


def _heads(messages: Iterable[Message]) -> Iterable[str]:
    """What stands before the words of each message."""
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role not in ROLES:
            raise UserError(f'"{role}" is no role', where=f"message {number}", allowed=f"allowed: {', '.join(ROLES)}")
        yield f"{role}\n"
