"""Translation memories: TMX and PO."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from ciyuan.data.folders import saying_disk_errors
from ciyuan.data.readers.files import MAX_LINE, open_bytes, read_lines
from ciyuan.data.readers.record import Columns, Record, Tally, same_language
from ciyuan.errors import DataError, did_you_mean


def read_tmx(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    """Each <tu> that has both languages. Streamed: a unit is forgotten when it has been read.

    Inline codes (<bpt>, <ph> …) stay in the text as what they stand for. Without data.source and data.target a memory
    of two languages is read from the first language of its first unit into the other.
    """
    _no_groups(path, columns)
    wanted = tuple(columns.names.values())
    languages: dict[str, None] = {}
    found = 0
    for line, variants in _units(path):
        languages.update(dict.fromkeys(variants))
        if None in wanted:
            wanted = _two_languages(variants, wanted, f"{path}:{line}")
            tally.note(f"{path}: read from {wanted[0]} into {wanted[1]}")
        texts = [_side(variants, language) for language in wanted if language is not None]
        if None in texts:
            lacking = wanted[texts.index(None)]
            tally.skipped[f"no {lacking}"] += 1
            continue
        found += 1
        yield Record({role: text or "" for role, text in zip(columns.roles, texts, strict=True)}, path, line)
    if not found:
        pair = " and ".join(language or "?" for language in wanted)
        guesses = [did_you_mean(w, languages) for w in wanted if w and not any(same_language(n, w) for n in languages)]
        raise DataError(f"no unit has both {pair}", where=path, fix=next((g for g in guesses if g), None),
                        allowed=f"languages found: {', '.join(sorted(languages)[:20]) or 'none'}")  # fmt: skip


def read_po(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    """msgid → msgstr of each entry that is translated and neither fuzzy nor obsolete; those are counted.

    Plural forms: where a language has one form, msgid_plural → msgstr[0]; else msgid → msgstr[0] and msgid_plural → the
    last. The file is read backwards if its header says that it translates into data.source.
    """
    import polib

    _no_groups(path, columns)
    # polib splits text at U+2028, files it does not: so it gets a file, already known to be whole UTF-8.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".po") as copy:
        with saying_disk_errors(Path(copy.name)):
            copy.writelines(line + "\n" for _, line in read_lines(path, tally.refuse))
            copy.flush()
        try:
            catalogue = polib.pofile(copy.name, encoding="utf-8")
        except Exception as error:  # noqa: BLE001 (OSError for syntax; IndexError, ValueError … for what it overlooked)
            detail = str(error).replace(copy.name, path)
            raise DataError(f"cannot be read as PO: {' '.join(detail.split())[:200]}", where=path,
                            fix="check it with msgfmt --check") from None  # fmt: skip
    if not len(catalogue):
        raise DataError("holds no entries", where=path)
    source, target = columns.names.values()
    language = catalogue.metadata.get("Language", "")
    backwards = bool(source and language and same_language(language, source)
                     and not (target and same_language(language, target)))  # fmt: skip
    if target and language and not backwards and not same_language(language, target):
        tally.note(f"{path}: its header says {language[:40]}, not {target}")
    for entry in catalogue:
        if entry.obsolete or entry.fuzzy or not entry.translated():
            reason = "obsolete" if entry.obsolete else "fuzzy" if entry.fuzzy else "untranslated"
            tally.skipped[reason] += 1
            continue
        pairs = [(entry.msgid, entry.msgstr)]
        if entry.msgid_plural:
            forms = [text for _, text in sorted(entry.msgstr_plural.items())] or [entry.msgstr]
            pairs = [(entry.msgid, forms[0]), (entry.msgid_plural, forms[-1])][-min(len(forms), 2) :]
        for pair in pairs:
            texts = reversed(pair) if backwards else pair
            yield Record(dict(zip(columns.roles, texts, strict=True)), path, entry.linenum)


def _units(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and {language: text} of every <tu>, as soon as it is complete."""
    import defusedxml
    from defusedxml.ElementTree import ParseError, XMLParser

    units = _Units()
    parser = XMLParser(target=units)
    units.expat = expat = parser.parser
    fed = 0
    try:
        with open_bytes(path) as stream:
            while piece := stream.read(2**16):
                parser.feed(piece)
                fed += len(piece)
                if units.size > MAX_LINE or fed - expat.CurrentByteIndex > MAX_LINE:
                    raise DataError(
                        f"a unit longer than {MAX_LINE >> 20} MiB", where=f"{path}:{expat.CurrentLineNumber}"
                    )
                yield from units.take()
            parser.close()
        yield from units.take()
    except ParseError as error:
        raise DataError(f"is not well-formed XML: {error.msg}", where=f"{path}:{error.position[0]}") from None
    except defusedxml.DefusedXmlException as error:
        raise DataError(f"declares entities, which are not expanded ({type(error).__name__})",
                        where=f"{path}:{expat.CurrentLineNumber}", fix="remove them from its DOCTYPE") from None  # fmt: skip
    except (ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"is not XML that can be read: {error}", where=path) from None
    if units.root not in (None, "tmx"):
        raise DataError(f"is <{str(units.root)[:40]}>, not <tmx>", where=path)


class _Units:
    """What expat calls while it reads: gathers the text of one <tu> at a time."""

    def __init__(self) -> None:
        self.expat: object = None
        self.root: str | None = None
        self.size = 0
        self._done: list[tuple[int, dict[str, str]]] = []
        self._variants: dict[str, str] = {}
        self._line = 0
        self._language = ""
        self._text: list[str] | None = None

    def take(self) -> list[tuple[int, dict[str, str]]]:
        done, self._done = self._done, []
        return done

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.root = self.root or tag
        if tag == "tu":
            self._variants, self._line = {}, getattr(self.expat, "CurrentLineNumber", 0)
            self.size = 0
        elif tag == "tuv":
            self._language = attributes.get("{http://www.w3.org/XML/1998/namespace}lang") or attributes.get("lang", "")
        elif tag == "seg":
            self._text = []

    def data(self, text: str) -> None:
        if self._text is not None:
            self.size += len(text)
            self._text.append(text)

    def end(self, tag: str) -> None:
        if tag == "seg" and self._text is not None:
            self._variants.setdefault(self._language, "".join(self._text))
            self._text = None
        elif tag == "tu":
            self._done.append((self._line, self._variants))
            self._variants = {}

    def close(self) -> None:
        pass


def _side(variants: dict[str, str], wanted: str) -> str | None:
    """The text in exactly that language, else in the first regional form of it."""
    if wanted in variants:
        return variants[wanted]
    return next((text for language, text in variants.items() if same_language(language, wanted)), None)


def _two_languages(variants: dict[str, str], wanted: tuple[str | None, ...], where: str) -> tuple[str | None, ...]:
    rest = [language for language in variants if not any(w and same_language(language, w) for w in wanted)]
    if len(rest) != sum(w is None for w in wanted):
        raise DataError(f"cannot tell which languages are meant among {', '.join(variants) or 'none'}", where=where,
                        fix="name them with data.source and data.target")  # fmt: skip
    return tuple(w if w is not None else rest.pop(0) for w in wanted)


def _no_groups(path: str, columns: Columns) -> None:
    if columns.group is not None:
        raise DataError("this format has no columns, so none by which to group", where=path, fix="leave data.group out")
