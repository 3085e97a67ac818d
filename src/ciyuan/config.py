"""Strict settings: YAML that is read to the letter, and errors that name file, line and what was probably meant.

train.yaml ── parse ──> Sheet (values, and the place of each) ── --set key=value ──> Sheet ── build ──> Settings
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ciyuan.errors import RecipeError, UserError, did_you_mean

MAX_BYTES = 256 * 1024
"""A settings file is written by hand: whatever is larger is another file."""
MAX_DEPTH = 16

KeyPath = tuple[str | int, ...]


class Settings(BaseModel):
    """One section of a recipe: closed (an unknown option is an error) and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


AnySettings = TypeVar("AnySettings", bound=Settings)


@dataclass(frozen=True)
class Sheet:
    """A settings file as it was written. places: for each path of keys, where it stands, e.g. ("data", "dev"): "train.yaml:7"."""

    name: str
    values: dict[str, Any]
    places: Mapping[KeyPath, tuple[int, str]]

    def place(self, path: KeyPath) -> str:
        """Where an option stands; for one that was left out, where the section above it begins."""
        return self._at(path)[1]

    def line(self, path: KeyPath) -> int:
        return self._at(path)[0]

    def _at(self, path: KeyPath) -> tuple[int, str]:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (0, self.name))


def read_settings(kind: type[AnySettings], path: Path | str, overrides: Sequence[str] = ()) -> AnySettings:
    """The settings in a YAML file with `--set key=value` laid over them. Raises RecipeError with file, line and key."""
    return build(kind, override(read_sheet(path), overrides))


def read_sheet(path: Path | str) -> Sheet:
    """A settings file as it was written. Raises RecipeError where it is missing, not UTF-8, not YAML or not a mapping."""
    path = Path(path)
    try:
        if path.is_dir():
            raise RecipeError("a folder, where a settings file was expected", where=path)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RecipeError(f"cannot be read: {reason}", where=path) from None
    if len(data) > MAX_BYTES:
        raise RecipeError(
            f"larger than {MAX_BYTES // 1024} KB: not a settings file", where=path, fix="give data files with --data"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8",
            where=f"{path}:{line}",
            fix="save it as UTF-8",
        ) from None
    return parse_sheet(text, str(path))


def parse_sheet(text: str, name: str) -> Sheet:
    """The same from text; `name` is what its places are called."""
    value, places = _parse(text, name)
    if value is None:
        raise RecipeError(
            "no settings in it", where=name, fix="`ciyuan recipes show translate` prints one to start from"
        )
    if not isinstance(value, dict):
        raise RecipeError("settings are written `key: value`, one a line", where=f"{name}:1")
    return Sheet(name, value, places)


def override(sheet: Sheet, overrides: Sequence[str]) -> Sheet:
    """A sheet with `key=value` texts laid over it, the value read as YAML. Their place is `--set key=value`."""
    for text in overrides:
        place = f"--set {_brief(text)}"
        key, equals, written = text.partition("=")
        keys = tuple(key.strip().split("."))
        if not equals or not all(keys):
            raise RecipeError("not of the form key=value", where=place, fix="for example --set training.lr=0.001")
        _check_text(key, place)
        value, _ = _parse(written, place)
        sheet = lay(sheet, keys, value, place=place)
    return sheet


def lay(sheet: Sheet, path: tuple[str, ...], value: Any, *, place: str) -> Sheet:
    """A sheet with one value laid over it; place: where it was said. Raises RecipeError if the path leads through a value."""
    values = _copy(sheet.values)
    here: dict[str, Any] = values
    for depth, name in enumerate(path[:-1], start=1):
        below = here.get(name)
        if below is None:
            below = here[name] = {}
        if not isinstance(below, dict):
            section = ".".join(path[:depth])
            raise RecipeError(
                f"{section} is {_brief(below)}, not a section with options of its own",
                where=place,
                fix=f"set {section} itself",
            )
        here = below
    here[path[-1]] = value
    places = {known: at for known, at in sheet.places.items() if known[: len(path)] != path}
    return Sheet(sheet.name, values, {**places, path: (0, place)})


def build(kind: type[AnySettings], sheet: Sheet) -> AnySettings:
    """The settings that a sheet says. Raises RecipeError on the first thing wrong with it, and says how many more there are."""
    values = _fill_empty_sections(kind, sheet.values)
    try:
        # Strict: "8000" is no number and 1 no truth. In strict mode a list is no tuple either, so lists become tuples first.
        return kind.model_validate(_tuples(values), strict=True)
    except ValidationError as error:
        faults = _faults(error, values)
    # What is missing comes last: often it is there, mistyped.
    ordered = sorted(faults.items(), key=lambda fault: (fault[0] not in sheet.places, sheet.line(fault[0])))
    path, found = ordered[0]
    raise _describe(kind, sheet, path, found, more=len(ordered) - 1)


def schema(kind: type[Settings]) -> dict[str, Any]:
    """The JSON Schema of a settings class, for editors."""
    found = kind.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def write_settings(settings: Settings) -> str:
    """Settings as YAML text that `read_settings` reads back equal; options that are None and need not be said are left out."""
    values = _said(settings)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _said(settings: Settings) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            said[name] = _said(value)
        elif value is not None or field.default is not None:
            said[name] = list(value) if isinstance(value, tuple) else value
    return said


# --- YAML --------------------------------------------------------------------------------------------------------------

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}


def _scalar(text: str) -> Any:
    """A plain (unquoted) scalar by YAML 1.2's core schema: `no` is Norwegian, 1e-3 a number, 2024-01-01 text.

    >>> [_scalar(text) for text in ("no", "1e-3", "8_000", "010", "", "1.2.3")]
    ['no', 0.001, 8000, 10, None, '1.2.3']
    """
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if len(text) < 64:
        if _INT.fullmatch(text):
            return int(text.replace("_", ""))
        if _FLOAT.fullmatch(text):
            return float(text)
    return _SPECIAL.get(text.lower(), text)


class _Open:
    """A mapping or list whose end has not come yet."""

    def __init__(self, value: dict[str, Any] | list[Any], path: KeyPath) -> None:
        self.value, self.path = value, path
        self.key: str | None = None


def _parse(text: str, name: str) -> tuple[Any, dict[KeyPath, tuple[int, str]]]:
    """A YAML document from its events, with neither recursion nor aliases: nothing in it can grow beyond what was written."""
    places: dict[KeyPath, tuple[int, str]] = {}
    stack: list[_Open] = []
    root: Any = None
    documents = 0
    in_file = not name.startswith("--set")

    def at(mark: Any) -> str:
        return f"{name}:{mark.line + 1}" if in_file and mark is not None else name

    def line(event: Any) -> int:
        return int(event.start_mark.line) + 1

    def refuse(event: Any, found: str, fix: str | None = None) -> RecipeError:
        return RecipeError(found, where=at(event.start_mark), fix=fix)

    def put(value: Any, event: Any) -> KeyPath:
        nonlocal root
        if not stack:
            root = value
            return ()
        top = stack[-1]
        if isinstance(top.value, list):
            path = (*top.path, len(top.value))
            top.value.append(value)
        else:
            assert top.key is not None
            path = (*top.path, top.key)
            top.value[top.key] = value
            top.key = None
        places.setdefault(path, (line(event), at(event.start_mark)))
        return path

    try:
        event: Any
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise refuse(event, "a second document begins here", "one recipe per file")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise refuse(event, "anchors (&name) and aliases (*name) are not read here", "write the value out")
            if isinstance(event, yaml.NodeEvent) and (tag := getattr(event, "tag", None)) not in (None, "!"):
                raise refuse(event, f"a tag ({tag}) is not read here", "write the value alone")
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                if len(stack) >= MAX_DEPTH:
                    raise refuse(event, f"nested more than {MAX_DEPTH} deep")
                if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
                    raise refuse(event, "a key is a word, not a list or a mapping")
                value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                stack.append(_Open(value, put(value, event)))
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                stack.pop()
            elif isinstance(event, yaml.ScalarEvent):
                _check_text(event.value, at(event.start_mark))
                if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
                    key = event.value
                    path = (*stack[-1].path, key)
                    if key in stack[-1].value:
                        raise refuse(
                            event, f"{'.'.join(map(str, path))} is said twice, before in line {places[path][0]}",
                            "keep one of the two",
                        )  # fmt: skip
                    stack[-1].key = key
                    places[path] = (line(event), at(event.start_mark))
                else:
                    put(_scalar(event.value) if event.implicit[0] else event.value, event)
    except yaml.MarkedYAMLError as error:
        where = at(error.problem_mark or error.context_mark)
        raise RecipeError(
            f"not YAML: {_brief(error.problem or error.context or 'cannot be read', 100)}", where=where
        ) from None
    except yaml.reader.ReaderError as error:
        at_line = text.count("\n", 0, error.position) + 1
        where = f"{name}:{at_line}" if in_file else name
        raise RecipeError(
            f"a character that YAML does not allow (#x{ord(text[error.position]):04x})", where=where
        ) from None
    except (ValueError, OverflowError) as error:  # PyYAML on escapes such as "\U99999999"
        if isinstance(error, UserError):
            raise
        raise RecipeError("not YAML: an escape that names no character", where=name) from None
    return root, places


def _check_text(text: str, where: str) -> None:
    for char in text:
        if char == "\0" or "\ud800" <= char <= "\udfff":
            raise RecipeError(f"a character (U+{ord(char):04X}) that no text can hold", where=where)


class _Dumper(yaml.SafeDumper):
    """Writes what `_scalar` reads back: text that looks like a number in YAML 1.2 but not in YAML 1.1 is quoted."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = isinstance(_scalar(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


def _write_list(dumper: yaml.SafeDumper, values: Sequence[Any]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(str, _write_text)
_Dumper.add_representer(list, _write_list)


# --- What is wrong, in words -------------------------------------------------------------------------------------------

_ALLOWED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (in quotes where it looks like a number)",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "options, each `key: value`",
    "model_type": "options, each `key: value`",
    "model_attributes_type": "options, each `key: value`",
    "none_required": "null",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
}
"""What would have been right, by pydantic's name for what is wrong."""


def _faults(error: ValidationError, values: Any) -> dict[KeyPath, list[Any]]:
    """pydantic's complaints by the path of the option, without the names of union members that it puts among the keys."""
    faults: dict[KeyPath, list[Any]] = {}
    for fault in error.errors(include_url=False):
        path: list[str | int] = []
        here: Any = values
        for key in fault["loc"]:
            if key in here if isinstance(here, dict) else isinstance(here, list) and key in range(len(here)):
                here = here[key]
            elif not (fault["type"] == "missing" and key == fault["loc"][-1]):
                continue
            path.append(key)
        faults.setdefault(tuple(path), []).append(fault)
    # In "a text or a section" the complaint about an option of the section says more than "not a text".
    return {
        path: found
        for path, found in faults.items()
        if not any(other != path and other[: len(path)] == path for other in faults)
    }


def _describe(kind: type[Settings], sheet: Sheet, path: KeyPath, faults: list[Any], *, more: int) -> RecipeError:
    where = sheet.place(path)
    name = ".".join(map(str, path)) or "the recipe"
    also = f" (and {more} more to mend)" if more else ""
    fault = next(
        (fault for fault in faults if fault["type"] in ("extra_forbidden", "missing", "value_error")), faults[0]
    )
    if fault["type"] == "extra_forbidden":
        section = ".".join(map(str, path[:-1]))
        known = _options(kind, path[:-1])
        guess = _guess(kind, path, known)
        if guess:
            return RecipeError(f"{_brief(name, 80)} is not an option{also}", where=where, fix=guess)
        allowed = f"{'options of ' + section if section else 'sections'}: {', '.join(known)}" if known else None
        return RecipeError(f"{_brief(name, 80)} is not an option{also}", where=where, allowed=allowed)
    if fault["type"] == "missing":
        return RecipeError(f"{name} is missing{also}", where=where, fix=_help(kind, path))
    inner = fault.get("ctx", {}).get("error")
    if isinstance(inner, UserError):
        return RecipeError(f"{inner.found}{also}", where=inner.where or where, allowed=inner.allowed, fix=inner.fix)
    if inner is not None:
        return RecipeError(f"{inner}{also}", where=where)
    wanted = [_ALLOWED[one["type"]].format(**one.get("ctx", {})) for one in faults if one["type"] in _ALLOWED]
    allowed = " or ".join(dict.fromkeys(wanted)) or fault["msg"]
    guess = None
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        guess = did_you_mean(fault["input"], re.findall(r"'([^']+)'", fault["ctx"]["expected"]))
    found = f"{name} is {_brief(json.dumps(fault['input'], ensure_ascii=False))}{also}"
    return RecipeError(found, where=where, allowed=f"allowed: {allowed}", fix=guess)


def _guess(kind: type[Settings], path: KeyPath, known: Sequence[str]) -> str | None:
    """A close name in the same section, or else the same or a close name in any other."""
    section, name = path[:-1], str(path[-1])
    close = did_you_mean(name, known)
    if close:
        return close.replace("mean ", f"mean {'.'.join(map(str, section))}.") if section else close
    everywhere = {}
    for other in _options(kind, ()):
        everywhere.update({option: f"{other}.{option}" for option in _options(kind, (other,))})
    close = did_you_mean(name, everywhere)
    return close and f"did you mean {everywhere[close.removeprefix('did you mean ').removesuffix('?')]}?"


def _help(kind: type[Settings], path: KeyPath) -> str | None:
    """What the field at this path is for, as its description says."""
    section = _section(kind, path[:-1])
    field = section.model_fields.get(str(path[-1])) if section else None
    return field.description if field else None


def _options(kind: type[Settings], path: KeyPath) -> list[str]:
    section = _section(kind, path)
    return list(section.model_fields) if section else []


def _section(kind: type[Settings], path: KeyPath) -> type[Settings] | None:
    """The settings class of the section at this path."""
    for key in path:
        field = kind.model_fields.get(str(key))
        below = _settings_class(field.annotation) if field else None
        if below is None:
            return None
        kind = below
    return kind


def _settings_class(annotation: Any) -> type[Settings] | None:
    """The settings class in an annotation such as `TokenizerSettings | str`."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next(filter(None, map(_settings_class, typing.get_args(annotation))), None)
    return None


def _fill_empty_sections(kind: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """A section that is named and left empty says nothing: its defaults hold."""
    return {key: {} if value is None and _section(kind, (key,)) is not None else value for key, value in values.items()}


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(below) for key, below in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(below) for key, below in value.items()}
    return list(value) if isinstance(value, list) else value


def _brief(value: Any, width: int = 60) -> str:
    """A value as it would be written, in one printable line of at most `width` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    return text if len(text) <= width else text[: width - 1] + "…"
