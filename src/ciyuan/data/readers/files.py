"""Open a data file, whatever compresses it, and hand it on line by line: UTF-8 checked, memory constant."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from ciyuan.data.folders import saying_disk_errors
from ciyuan.errors import DataError, did_you_mean

MAX_LINE = 16 * 2**20
"""Bytes a line may have. Longer than any novel; far below what memory holds once it is tokens."""

COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}


def suffixes(path: str) -> tuple[str, str, str]:
    """Stem, suffix and compression of a path.

    >>> suffixes("tm/corpus.en.gz"), suffixes("a.b.tsv")
    (('tm/corpus', '.en', '.gz'), ('a.b', '.tsv', ''))
    """
    name = Path(path)
    compression = name.suffix.lower() if name.suffix.lower() in COMPRESSIONS else ""
    if compression:
        name = name.with_suffix("")
    return str(name.with_suffix("")) if name.name else "", name.suffix, compression


def check_file(path: str) -> os.stat_result:
    """Refuse what cannot be opened as a data file, and say what could."""
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        folder = Path(path).parent
        guess = did_you_mean(Path(path).name, (entry.name for entry in folder.iterdir())) if folder.is_dir() else None
        raise DataError("no such file", where=path, fix=guess) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be opened: {_reason(error)}", where=path) from None
    if stat.S_ISDIR(status.st_mode):
        raise DataError("is a folder, not a file", where=path, fix="name the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise DataError("is not a regular file", where=path, fix="it is read more than once: save it first")
    if status.st_size == 0:
        raise DataError("is empty", where=path)
    return status


@contextmanager
def open_bytes(path: str) -> Iterator[io.BufferedReader[io.RawIOBase]]:
    """The bytes of a file, decompressed. Whatever goes wrong while they are read becomes a DataError."""
    check_file(path)
    compression = suffixes(path)[2]
    try:
        with Path(path).open("rb") as file, io.BufferedReader(_decompressed(file, compression), 2**17) as stream:
            yield stream
    except EOFError:
        raise DataError(f"the {COMPRESSIONS[compression]} data ends too soon; the file is cut off", where=path,
                        fix="copy or download it again") from None  # fmt: skip
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, _ZstdError) as error:
        raise DataError(f"is not whole {COMPRESSIONS[compression]} data ({_reason(error)})", where=path,
                        fix="check it, or copy it again") from None  # fmt: skip
    except OSError as error:
        raise DataError(f"cannot be read: {_reason(error)}", where=path) from None


def _raise(error: DataError) -> None:
    raise error


def read_lines(path: str, refuse: Callable[[DataError], None] = _raise) -> Iterator[tuple[int, str]]:
    r"""Each line with its number, from 1, without its end: \n or \r\n, and nothing else, ends a line.

    A UTF-8 byte order mark is passed over. Raises DataError with line and byte for what is not UTF-8, for UTF-16, NUL
    and a line longer than MAX_LINE bytes. refuse: is told of such a line; if it does not raise, what can be read of it comes.
    """
    with open_bytes(path) as stream:
        offset = skip_byte_order_mark(stream, path)
        number = 0
        while raw := stream.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                refuse(DataError(f"the line is longer than {MAX_LINE >> 20} MiB", where=f"{path}:{number}",
                                 fix="split it into lines: one example each, or a paragraph each"))  # fmt: skip
                while raw and not raw.endswith(b"\n"):
                    offset, raw = offset + len(raw), stream.readline(MAX_LINE)
                offset, raw = offset + len(raw), b""
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                refuse(
                    DataError(
                        f"is not UTF-8: byte 0x{raw[error.start]:02x} at byte {offset + error.start + 1} of the file, "
                        f"byte {error.start + 1} of the line",
                        where=f"{path}:{number}",
                        fix="convert the file, e.g. iconv -f GB18030 -t UTF-8",
                    )
                )
                text = raw.decode(errors="ignore")
            if "\0" in text:
                at = raw.index(b"\0")
                refuse(DataError(f"a NUL at byte {offset + at + 1} of the file, byte {at + 1} of the line",
                                 where=f"{path}:{number}", fix="is it a binary or UTF-16 file?"))  # fmt: skip
                text = text.replace("\0", "")
            offset += len(raw)
            yield number, text.removesuffix("\n").removesuffix("\r")
    if number == 0:
        raise DataError("is empty", where=path)


def skip_byte_order_mark(stream: io.BufferedReader[io.RawIOBase], path: str) -> int:
    """Bytes passed over: 3 after a UTF-8 mark, else 0. Refuses UTF-16 and UTF-32."""
    head = stream.peek(4)[:4]
    for mark, name in ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
                       (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):  # fmt: skip
        if head.startswith(mark):
            raise DataError(f"is {name}, not UTF-8", where=f"{path}:1", fix=f"convert it: iconv -f {name} -t UTF-8")
    return len(stream.read(3)) if head.startswith(codecs.BOM_UTF8) else 0


@contextmanager
def plain_file(path: str) -> Iterator[str]:
    """The name of a file that holds the same bytes uncompressed, for libraries that seek; gone afterwards."""
    if not suffixes(path)[2]:
        check_file(path)
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=suffixes(path)[1]) as copy:
        with open_bytes(path) as stream:
            while piece := stream.read(2**20):
                with saying_disk_errors(Path(copy.name)):
                    copy.write(piece)
        with saying_disk_errors(Path(copy.name)):
            copy.flush()
        yield copy.name


def _decompressed(file: BinaryIO, compression: str) -> io.RawIOBase:
    # GzipFile and LZMAFile are buffered, but have all that BufferedReader asks of a raw stream.
    if compression == ".gz":
        return cast(io.RawIOBase, gzip.GzipFile(fileobj=file, mode="rb"))
    if compression == ".xz":
        return cast(io.RawIOBase, lzma.LZMAFile(file))
    if compression == ".zst":
        return _Zstd(file)
    return cast(io.RawIOBase, file)


class _ZstdError(Exception):
    """zstd data that is not whole, whichever library said so."""


class _Zstd(io.RawIOBase):
    """zstd data, frame after frame. Unlike zstandard's own stream it notices a file that is cut off."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._frame = self._new_frame()
        self._begun = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            # A small piece: a block of four bytes can stand for 128 KiB.
            piece = (self._frame.unused_data if self._frame.eof else b"") or self._file.read(1024)
            if self._frame.eof:
                self._frame, self._begun = self._new_frame(), False
            if not piece:
                if self._begun:
                    raise EOFError
                return 0
            self._begun = True
            try:
                self._ready = memoryview(self._frame.decompress(piece))
            except self._error as error:
                raise _ZstdError(str(error)) from None
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
