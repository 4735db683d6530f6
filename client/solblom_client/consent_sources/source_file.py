"""The file of a consent source: read whole every time, so a change is always seen; parsed when its bytes are new."""

import datetime as dt
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from solblom_client.consent_sources.csv_table import read_csv
from solblom_client.consent_sources.fhir_bundle import read_fhir
from solblom_client.consent_sources.fhir_consent import FhirSettings
from solblom_client.consent_sources.record import Snapshot
from solblom_protocol.errors import DataError

MAX_SOURCE_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class SourceFile:
    """The bytes of a source, and when the file was last changed."""

    data: bytes
    changed: dt.datetime


@dataclass(frozen=True)
class _Parsed:
    """What a parser made of bytes with this digest, with these settings."""

    of: tuple[str, FhirSettings, bytes]
    snapshot: Snapshot


_last: list[_Parsed] = []  # one: the source of this node


def read_source_file(path: Path) -> SourceFile:
    """Return a source's bytes.

    Raises:
        DataError: SB-308, unreadable, too large, or written to while it was read.
    """
    try:
        # Without waiting: a pipe that nobody writes to would hold up the vault.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise DataError("SB-308", "The consent source is no file")
            if before.st_size > MAX_SOURCE_BYTES:
                raise DataError("SB-308", f"The consent source has over {MAX_SOURCE_BYTES:,} bytes")
            data = file.read(before.st_size + 1)
            after = os.fstat(file.fileno())
    except OSError:
        raise DataError("SB-308", "The consent source cannot be read") from None
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, len(data)):
        # Half of a file may lack a withdrawal.
        raise DataError("SB-308", "The consent source was changed while it was read")
    return SourceFile(data, dt.datetime.fromtimestamp(after.st_mtime, tz=dt.UTC))


def parse_source(kind: str, data: bytes, settings: FhirSettings) -> Snapshot:
    """Return what a source says; bytes that are those of the last time are not parsed again.

    The bytes themselves are compared, by their SHA-256, never the file's time or size.

    Raises:
        DataError: SB-308.
    """
    of = (kind, settings, hashlib.sha256(data).digest())
    for parsed in _last:
        if parsed.of == of:
            return parsed.snapshot
    parsers: dict[str, Callable[[], Snapshot]] = {
        "csv": lambda: read_csv(data),
        "fhir": lambda: read_fhir(data, settings),
    }
    snapshot = parsers[kind]()
    _last[:] = [_Parsed(of, snapshot)]
    return snapshot
