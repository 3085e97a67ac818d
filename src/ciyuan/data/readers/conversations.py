"""Conversations: {"messages": [{"role": …, "content": …}]}, or ShareGPT's {"conversations": [{"from": …, "value": …}]}."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ciyuan.data.readers.record import Columns, Record, Tally, as_text
from ciyuan.errors import DataError, did_you_mean
from ciyuan.text import chat

SPELLINGS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system"}
"""Other names of roles."""


def from_chats(
    rows: Iterable[tuple[int, Mapping[str, object]]], file: str, columns: Columns, tally: Tally
) -> Iterator[Record]:
    """Rows that hold a conversation as records: `turns`, and all words as the field "chat".

    That field is empty where the assistant says nothing: there is nothing to learn. Raises DataError for what is no conversation.
    """
    for line, row in rows:
        try:
            record = _from_row(row, file, line, columns)
        except DataError as error:
            tally.refuse(error)
        else:
            yield record


def _from_row(row: Mapping[str, object], file: str, line: int, columns: Columns) -> Record:
    where, asked = f"{file}:{line}", columns.names["chat"]
    names = ("messages", "conversations") if asked is None else (asked,)
    name = next((name for name in names if name in row), None)
    if name is None:
        raise DataError(f'no field "{names[0]}"', where=where, allowed=f"it has: {', '.join(row) or 'no fields'}",
                        fix=did_you_mean(names[0], list(row)) or "name it with data.text")  # fmt: skip
    turns = tuple(_turn(turn, name, file, line) for turn in _listed(row[name], name, where))
    words = chat.plain([{"role": role, "content": text} for role, text in turns])
    says = any(role == "assistant" and text.strip() for role, text in turns)
    group = None
    if columns.group is not None:
        if columns.group not in row:
            raise DataError(f'no field "{columns.group}" for the group', where=where)
        group = as_text(row[columns.group], "group", columns.group, file, line)
    return Record({"chat": words if says else ""}, file, line, group, turns=turns)


def _listed(value: object, name: str, where: str) -> list[object]:
    if not isinstance(value, list):
        raise DataError(f'field "{name}" is not a list of messages', where=where,
                        allowed='[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]')  # fmt: skip
    return value


def _turn(turn: object, name: str, file: str, line: int) -> tuple[str, str]:
    """(role, words) of a message."""
    where = f"{file}:{line}"
    if isinstance(turn, Mapping):
        for who, what in (("role", "content"), ("from", "value")):
            if who in turn and what in turn:
                said = str(turn[who]).lower()
                role = SPELLINGS.get(said, said)
                if role not in chat.ROLES:
                    raise DataError(f'"{said[:40]}" is no role', where=where,
                                    allowed=f"allowed: {', '.join([*chat.ROLES, *SPELLINGS])}")  # fmt: skip
                return role, as_text(_parts(turn[what]), role, what, file, line)
    raise DataError(f'a message of "{name}" has no role and content', where=where,
                    allowed='{"role": "user", "content": "…"} or {"from": "human", "value": "…"}')  # fmt: skip


def _parts(content: object) -> object:
    """The text of a content that is a list of parts, as long as all of them are text."""
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content
