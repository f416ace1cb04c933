"""The bytes of a file as lines of UTF-8: unpacked, decoded from what was recognised, and counted."""

import codecs
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.lines import MAX_LINE_BYTES
from flywheel.pairs.events.western import is_western

COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_BLOCK = 1 << 20
_SAMPLE = 1 << 16
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
# How files begin that are no text whatever their name says, and what helps.
_OTHERS = {
    rb"PK\x03\x04": ("a spreadsheet or a zip archive", "save the sheet as CSV, or unpack the archive"),
    rb"\xd0\xcf\x11\xe0": ("an old spreadsheet", "save the sheet as CSV"),
    rb"\x1f\x8b": ("compressed with gzip", "add .gz to its name"),
    rb"\x28\xb5\x2f\xfd": ("compressed with Zstandard", "add .zst to its name"),
    rb"BZh[1-9]1AY&SY|\xfd7zXZ\x00": ("compressed in a way that is not read here", "unpack it"),
    rb"PAR1[\x00-\x1f]": ("a Parquet file", "let its name end in .parquet"),
    rb"version https://git-lfs": ("a pointer of Git LFS to a file that is elsewhere", "fetch the file with `git lfs pull`"),
    rb"(?i)\s*<(?:!doctype )?html": ("a web page", "export it again, since this may be the page of a login or an error"),
}
_SUSPECTS = 1000  # lines beyond ASCII that are looked at


@dataclass(frozen=True)
class TextForm:
    """How a file's bytes are lines: its encoding, what ends a line, and how many lines there are."""

    encoding: str
    newline: bytes
    lines: int


def bare_suffix(path: Path) -> str:
    """The suffix that names the format, without that of a compression."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSION else path
    return bare.suffix.lower()


def unpacked(path: Path) -> BinaryIO:
    """The file's bytes, decompressed as its name says."""
    compression = COMPRESSION.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), compression), 1 << 18)


def content_hash(path: Path) -> "hashlib._Hash":
    """A hash of the file's unpacked bytes."""
    content = hashlib.sha256()
    with unpacked(path) as file:
        while block := file.read(_BLOCK):
            content.update(block)
    return content


def check_content(path: Path, name: str) -> None:
    """Raise UnreadableFileError for a file whose name says text and whose first bytes say something else."""
    with unpacked(path) as file:
        begins = file.read(64).removeprefix(codecs.BOM_UTF8)
    for mark, (what, remedy) in _OTHERS.items():
        if re.match(mark, begins):
            raise UnreadableFileError(f"{name} is {what}, whatever its name says. Nothing of it was stored; {remedy}.")


def recognise(path: Path, name: str, encoding: str | None, table: bool) -> TextForm:
    """How to read a text file, maybe a `table`: by its byte order mark, or as UTF-16 without one, as UTF-8, or as cp1252.

    cp1252 is taken where no line beyond ASCII is UTF-8 and all read as Western text; other encodings are the user's to
    say (`encoding`). Raises UnreadableFileError when the file is not in the encoding that was said or marked.
    """
    with unpacked(path) as file:
        sample = file.read(_SAMPLE)
    found = encoding or _marked(sample) or _without_mark(path)
    newline = b"\r" if table and b"\r" in sample and b"\n" not in sample else b"\n"
    form = TextForm(found, newline, 0)
    try:
        return TextForm(found, newline, sum(1 for _ in text_lines(path, form)))
    except UnicodeError as error:
        raise UnreadableFileError(
            f"{name} is not {found.removesuffix('-sig')} throughout ({getattr(error, 'reason', error)}). "
            "Nothing of it was stored. Say what it is with pairs.encoding, such as cp1252."
        ) from error


def text_lines(path: Path, form: TextForm) -> Iterator[bytes]:
    """Lines of UTF-8 without their ends and without a byte order mark.

    One that is too long is one line still: its beginning, and one byte more than allowed. Of a file that is UTF-8, lines
    that are not come as they are; of any other, UnicodeError is raised.
    """
    with unpacked(path) as file:
        plain = form.encoding in ("utf-8", "utf-8-sig")
        source = file if plain and form.newline == b"\n" else io.BufferedReader(_Utf8(file, form), 1 << 18)
        if form.encoding == "utf-8-sig" and source is file:
            file.read(len(codecs.BOM_UTF8))
        while line := source.readline(MAX_LINE_BYTES + 2):
            if not line.endswith(b"\n") and len(line) > MAX_LINE_BYTES:
                while (rest := source.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield line
            else:
                yield line.rstrip(b"\r\n")


def text_blocks(path: Path, form: TextForm) -> Iterator[str]:
    """The text of a file in blocks; a byte that is not UTF-8, in a file that is, comes as a surrogate."""
    utf8 = form.encoding in ("utf-8", "utf-8-sig")
    decoder = codecs.getincrementaldecoder(form.encoding)("surrogateescape" if utf8 else "strict")
    with unpacked(path) as file:
        while block := file.read(_SAMPLE):
            if text := decoder.decode(block):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text


class _Utf8(io.RawIOBase):
    """A file's bytes in UTF-8, with line feeds, from another encoding or with other ends of lines."""

    def __init__(self, file: BinaryIO, form: TextForm) -> None:
        self._file = file
        self._newline = form.newline
        utf8 = form.encoding in ("utf-8", "utf-8-sig")
        self._decoder = codecs.getincrementaldecoder(form.encoding)("surrogateescape" if utf8 else "strict")
        self._errors = "surrogateescape" if utf8 else "strict"
        self._waiting = b""

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As `io.RawIOBase` has it."""
        while not self._waiting:
            block = self._file.read(_SAMPLE)
            self._waiting = self._decoder.decode(block, final=not block).encode("utf-8", self._errors)
            if self._newline == b"\r":
                self._waiting = self._waiting.replace(b"\r", b"\n")
            if not block:
                break
        taken = self._waiting[: len(buffer)]
        buffer[: len(taken)] = taken
        self._waiting = self._waiting[len(taken) :]
        return len(taken)


def _marked(sample: bytes) -> str | None:
    """The encoding that a byte order mark names, or that every second byte being NUL does."""
    for mark, encoding in _MARKS.items():
        if sample.startswith(mark):
            return encoding
    halves = sample[0:4096:2], sample[1:4096:2]
    if len(sample) >= 8 and sample.count(b"\0", 0, 4096) and sample[:4096].strip(b"\0"):
        nul = [half.count(0) / len(half) for half in halves]
        if nul[1] > 0.6 and nul[0] < 0.1:
            return "utf-16-le"
        if nul[0] > 0.6 and nul[1] < 0.1:
            return "utf-16-be"
    return None


def _without_mark(path: Path) -> str:
    suspects = []
    for line in text_lines(path, TextForm("utf-8", b"\n", 0)):
        if line.isascii() or len(line) > MAX_LINE_BYTES:
            continue
        try:
            line.decode()
            return "utf-8"
        except UnicodeDecodeError:
            suspects.append(line)
            if len(suspects) == _SUSPECTS:
                break
    return "cp1252" if suspects and is_western(suspects) else "utf-8"
