"""JSON documents from files, lines or a folder, one at a time, however hostile; and which patients came by.

Limits: a document has at most `max_bytes`, the rest of a longer line is skipped unread; JSON that is nested so deep
that Python's own reader gives up (about 1,000 levels; a phenopacket has a dozen) is named; so are duplicate
keys, of which two readers may take different ones, and NaN. A blank line is nothing.
"""

import gzip
import hashlib
import io
import json
import os
import re
import secrets
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from solblom_models.phenotype.reading import Reading, Reason
from solblom_protocol.errors import DataError

MAX_DOCUMENT_BYTES = 8 * 2**20  # the largest of 8,378 published cases has 64 KB
_SKIP_BYTES = 2**20
_WHOLE = (".json", ".json.gz")
_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_CUT_NUMBER = re.compile(r"-?|\.|[eE][+-]?")  # of -1.5e-3, what may be left behind a whole number
_LITERALS = ("true", "false", "null")


class _UnfitError(ValueError):
    """JSON that is not taken, and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class PatientRegister:
    """Tells whether a patient came by before, in constant memory.

    SQLite's private temporary file takes what does not fit into 4 MB. It has no name, ends with the process, and
    holds 16 bytes a patient and 16 of the family under a key that is never stored, so no id reaches the disk.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._database = sqlite3.connect("", isolation_level=None)
        for line in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -4096"):
            self._database.execute(f"PRAGMA {line}")
        self._database.execute(
            "CREATE TABLE seen (digest BLOB PRIMARY KEY, family BLOB NOT NULL) WITHOUT ROWID"
        )
        self._database.execute(
            "CREATE TABLE named (digest BLOB, family BLOB, PRIMARY KEY (digest, family)) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def is_new(self, patient: str, family: str | None = None) -> bool:
        """Remember a patient with the family, if any; False for one that was remembered before.

        Raises:
            DataError: SB-307 the folder for temporary files is full or closed.
        """
        return self._put("INSERT OR IGNORE INTO seen VALUES (?, ?)", patient, family)

    def name(self, person: str, family: str) -> None:
        """Remember that a family's message names a person beside its case.

        Raises:
            DataError: SB-307, as `is_new`.
        """
        self._put("INSERT OR IGNORE INTO named VALUES (?, ?)", person, family)

    def named_otherwise(self) -> int:
        """Return how many patients a relative's message names of another family than their own document does."""
        found = self._database.execute(
            "SELECT count(DISTINCT named.digest) FROM named JOIN seen ON seen.digest = named.digest"
            " WHERE seen.family != named.family"
        )
        return int(found.fetchone()[0])

    def is_of(self, patient: str, family: str | None) -> bool:
        """Tell whether a remembered patient is of this family, or of none as here."""
        values = (self._digest(patient), self._digest(f"family {family}" if family else ""))
        found = self._database.execute("SELECT 1 FROM seen WHERE digest = ? AND family = ?", values)
        return found.fetchone() is not None

    def _put(self, statement: str, patient: str, family: str | None) -> bool:
        values = (self._digest(patient), self._digest(f"family {family}" if family else ""))
        try:
            return self._database.execute(statement, values).rowcount == 1
        except sqlite3.Error:
            raise DataError(
                "SB-307", "The register of patients has no room in the folder for temporary files"
            ) from None

    def _digest(self, text: str) -> bytes:
        # JSON may hold half of a surrogate pair, which UTF-8 does not have.
        data = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, key=self._key, digest_size=16).digest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()


def raw_documents(
    path: Path, reading: Reading, *, max_bytes: int = MAX_DOCUMENT_BYTES
) -> Iterator[tuple[int, bytes | Reason]]:
    """Yield each document's line (file, in a folder) number from 1, and its bytes or why they are not read.

    Raises:
        DataError: SB-307 nothing can be read at the path, or a compressed file is damaged.
    """
    if path.is_dir():
        yield from _folder(path, reading, max_bytes)
        return
    name = path.name.lower()
    if not name.endswith(_WHOLE + _LINES):
        raise DataError(
            "SB-307", f"Cases are read from a folder or from {', '.join(_WHOLE + _LINES)}"
        )
    number = 0
    try:
        with _open(path) as file:
            if name.endswith(_WHOLE):
                yield 1, _limited(file.read(max_bytes + 1), max_bytes)
                return
            for number, line in _lines(file, max_bytes):
                if isinstance(line, Reason) or line.strip():
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError("SB-307", f"The compressed file is damaged after line {number}") from None
    except OSError:
        raise DataError("SB-307", f"The cases cannot be read after line {number}") from None


def json_object(data: bytes) -> dict[str, Any] | Reason:
    """Return the one JSON object in the bytes, or why there is none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The last character may be cut in its middle.
        return Reason.TRUNCATED if error.reason == "unexpected end of data" else Reason.NOT_UTF8
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except _UnfitError as error:
        return error.reason
    except RecursionError:
        return Reason.TOO_DEEP
    except json.JSONDecodeError as error:
        return Reason.TRUNCATED if _ends_early(text, error) else Reason.NOT_JSON
    except ValueError:  # a number of more digits than Python reads
        return Reason.NOT_JSON
    return value if isinstance(value, dict) else Reason.NOT_PHENOPACKET


def _folder(folder: Path, reading: Reading, max_bytes: int) -> Iterator[tuple[int, bytes | Reason]]:
    number = 0
    closed: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=closed.append):
        folders.sort()  # the same order everywhere
        for name in sorted(names):
            number += 1
            if not name.lower().endswith(_WHOLE):
                reading.note(Reason.OTHER_FILE, number)
                continue
            yield number, _whole(Path(parent, name), max_bytes)
    for _ in closed:
        yield number, Reason.UNREADABLE_FILE


def _whole(path: Path, max_bytes: int) -> bytes | Reason:
    if not path.is_file():  # a pipe would be waited for without end
        return Reason.UNREADABLE_FILE
    try:
        with _open(path) as file:
            return _limited(file.read(max_bytes + 1), max_bytes)
    except (OSError, EOFError, zlib.error):
        return Reason.UNREADABLE_FILE


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    if path.name.lower().endswith(".gz"):
        return gzip.GzipFile(path, "rb")
    return path.open("rb")


def _limited(data: bytes, max_bytes: int) -> bytes | Reason:
    return data if len(data) <= max_bytes else Reason.TOO_LARGE


def _lines(
    file: gzip.GzipFile | io.BufferedReader, max_bytes: int
) -> Iterator[tuple[int, bytes | Reason]]:
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if len(line) <= max_bytes:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_SKIP_BYTES)
        yield number, Reason.TOO_LARGE


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _UnfitError(Reason.DUPLICATE_KEY)
    return found


def _no_constant(_: str) -> NoReturn:
    raise _UnfitError(Reason.NOT_FINITE)


def _ends_early(text: str, error: json.JSONDecodeError) -> bool:
    rest = text[error.pos :].rstrip()
    if not text.strip():
        return True
    if error.msg.startswith(("Unterminated", "Invalid \\")):
        # An escape may be cut in its middle; a wrong one is followed by more.
        return error.msg.startswith("Unterminated") or '"' not in rest[1:]
    cut_number = _CUT_NUMBER.fullmatch(rest) is not None
    return cut_number or any(word.startswith(rest) for word in _LITERALS)
