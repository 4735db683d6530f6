"""The file of a consent source: read whole every time, so a change is always seen; parsed when its bytes are new.

The bytes of the last time are kept in memory to compare with: at most MAX_SOURCE_BYTES of them.
"""

import datetime as dt
import gc
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from solblom_client.consent.sources.csv_table import read_csv
from solblom_client.consent.sources.fhir_bundle import FhirBundle, read_bundle
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_client.consent.sources.record import Snapshot
from solblom_protocol.errors import DataError

MAX_SOURCE_BYTES = 512 * 1024**2
_MANY_OBJECTS = 100_000


@dataclass(frozen=True)
class SourceFile:
    """The bytes of a source, and when the file was last changed."""

    data: bytes
    changed: dt.datetime


@dataclass(frozen=True)
class _Parsed:
    """What a parser made of these bytes, with these settings.

    Attributes:
        bundle: what saves time with the next one; None: a table.
    """

    kind: str
    settings: FhirSettings
    data: bytes = field(repr=False)
    snapshot: Snapshot
    bundle: FhirBundle | None


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
    """Return what a source says; what has the bytes of the last time is not parsed again.

    The bytes themselves are compared, never the file's time or size.

    Raises:
        DataError: SB-308.
    """
    before = next((last for last in _last if (last.kind, last.settings) == (kind, settings)), None)
    if before is not None and before.data == data:
        return before.snapshot
    with _uncollected():
        parsed = _parse(kind, data, settings, None if before is None else before.bundle)
    _last[:] = [parsed]
    return parsed.snapshot


def _parse(kind: str, data: bytes, settings: FhirSettings, before: FhirBundle | None) -> _Parsed:
    """Return what a source says, read with the parser of its kind.

    Raises:
        DataError: SB-308.
    """
    if kind == "csv":
        return _Parsed(kind, settings, data, read_csv(data, settings.zone), None)
    bundle = read_bundle(data, settings, before)
    return _Parsed(kind, settings, data, bundle.snapshot, bundle)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hold up the search for cycles of objects: a million objects without one are searched again and again.

    It is held up for all threads. Whoever found it running lets it run again, so it never stays off.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
            if gc.get_count()[0] > _MANY_OBJECTS:
                gc.collect()  # once, here: the next round would be searched instead
