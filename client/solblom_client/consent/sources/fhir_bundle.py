"""A bundle of HL7 FHIR R4B Consents and Patients, as a JSON file.

A bundle that is not whole stops the round: a withdrawal may stand on the page that is missing. A patient
has several names (logical id, identifiers), and a consent may use any of them; a name that two patients
share takes part under no rule.

What an entry says is kept with its bytes. Of a bundle that changed, entries with the same bytes are not read
again, and what they say is put together anew only where it has to do with one that changed.
"""

import datetime as dt
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from solblom_client.consent.sources.fhir_changes import Kept, resolve_again
from solblom_client.consent.sources.fhir_consent import FhirConsent, FhirSettings
from solblom_client.consent.sources.fhir_entry import read_entry
from solblom_client.consent.sources.fhir_patients import (
    FhirPatient,
    Resolved,
    Said,
    keys_of,
    resolve,
)
from solblom_client.consent.sources.json_stream import members
from solblom_client.consent.sources.record import MAX_RECORDS, Snapshot, start_of
from solblom_client.consent.sources.unchanged import Places, Run, Unchanged
from solblom_protocol.errors import DataError

_KINDS = {FhirConsent: b"C", FhirPatient: b"P"}
# Tuples, which compare: a list in the place of a word has no hash.
_TYPES = ("searchset", "collection")  # others hold requests, or older versions beside new
MAX_ENTRIES = 4 * MAX_RECORDS  # of a bundle, whatever they are: each takes memory


@dataclass
class _Entries:
    """The entries of a bundle, in columns: there are many.

    Attributes:
        starts: place of the first byte of each.
        ends: place after its last byte.
        said: what it says of consent; None: nothing.
        keys: by which it may have to do with others.
        kinds: `C` for a Consent, `P` for a Patient, `-` for another.
        matches: 1 for each that counts as a match, 0 for another.
        consents: how many Consents there are.
        patients: how many Patients.
    """

    starts: "array[int]" = field(default_factory=lambda: array("q"))
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    said: list[Said | None] = field(default_factory=list)
    keys: list[tuple[str, ...]] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    matches: bytearray = field(default_factory=bytearray)
    consents: int = 0
    patients: int = 0

    def read(self, entry: Any, start: int, end: int, settings: FhirSettings) -> None:
        """Add an entry.

        Raises:
            DataError: SB-308.
        """
        said, is_match = read_entry(entry, settings)
        self.starts.append(start)
        self.ends.append(end)
        self.said.append(said)
        self.keys.append(() if said is None else keys_of(said))
        self.matches.append(is_match)
        self._add_kinds(b"-" if said is None else _KINDS[type(said)])

    def take(self, before: "_Entries", run: Run) -> Kept:
        """Add entries that say what they said before, since their bytes are the same.

        Raises:
            DataError: SB-308, too many.
        """
        same, place = slice(run.first, run.first + run.length), len(self.said)
        for places, earlier in ((self.starts, before.starts), (self.ends, before.ends)):
            before_it = np.frombuffer(earlier, np.int64, run.length, run.first * earlier.itemsize)
            places.frombytes((before_it + run.shift).tobytes())
        self.said += before.said[same]
        self.keys += before.keys[same]
        self.matches += before.matches[same]
        self._add_kinds(before.kinds[same])
        return Kept(place, run.first, run.length)

    def _add_kinds(self, kinds: bytes | bytearray) -> None:
        self.kinds += kinds
        self.consents += kinds.count(b"C")
        self.patients += kinds.count(b"P")
        if self.consents > MAX_RECORDS or self.patients > MAX_RECORDS:
            raise DataError("SB-308", f"The consent source has over {MAX_RECORDS:,} records")
        if len(self.kinds) > MAX_ENTRIES:
            raise DataError("SB-308", f"The consent source has over {MAX_ENTRIES:,} entries")


@dataclass(frozen=True)
class FhirBundle:
    """A bundle as it was read; of use to read a later one. Its text form names no patient."""

    data: bytes = field(repr=False)
    settings: FhirSettings
    snapshot: Snapshot
    _entries: _Entries = field(repr=False)

    @property
    def places(self) -> Places:
        """Where each entry stands."""
        return Places(self.data, self._entries.starts, self._entries.ends)


def read_fhir(data: bytes, settings: FhirSettings) -> Snapshot:
    """Return what a Consent bundle says.

    Raises:
        DataError: SB-308, as `read_bundle`.
    """
    return read_bundle(data, settings, None).snapshot


def read_bundle(data: bytes, settings: FhirSettings, before: FhirBundle | None) -> FhirBundle:
    """Read a Consent bundle; an earlier one saves time, and changes nothing of what is found.

    Raises:
        DataError: SB-308, not such a bundle, not whole, of another version, or a consent whose patient is not
            known.
    """
    if before is not None and before.settings != settings:
        before = None  # what an entry says depends on them
    entries, about, kept = _read_entries(data, settings, before)
    _check_whole(about, matches=entries.matches.count(1))
    if before is None:
        found = resolve(filter(None, entries.said), settings)
    else:
        earlier = before.snapshot
        found = resolve_again(
            Resolved(earlier.records, earlier.people, earlier.doubtful),
            before._entries.keys,
            entries.keys,
            entries.said,
            kept=kept,
            settings=settings,
        )
    return FhirBundle(data, settings, Snapshot(*found, _made(about)), entries)


def _read_entries(
    data: bytes, settings: FhirSettings, before: FhirBundle | None
) -> tuple[_Entries, dict[str, Any], list[Kept]]:
    """Return the entries of a bundle, its other members, and which entries have the bytes of earlier ones.

    Raises:
        DataError: SB-308.
    """
    entries, about, kept = _Entries(), dict[str, Any](), list[Kept]()
    known, run_at = None, None
    if before is not None:
        known = Unchanged(before.places, data)
        run_at = known.run_at
    try:
        for name, value, start, end in members(data, streamed="entry", known=run_at):
            if name != "entry":
                about[name] = value
            elif before is not None and isinstance(value, Run):
                kept.append(entries.take(before._entries, value))
            else:
                entries.read(value, start, end, settings)
                if known is not None:
                    known.passed(start, end)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise DataError("SB-308", "The consent source is not a FHIR bundle in JSON") from None
    return entries, about, kept


def _check_whole(about: dict[str, Any], *, matches: int) -> None:
    """Refuse a bundle that is another thing, or one page of several.

    Raises:
        DataError: SB-308.
    """
    if about.get("resourceType") != "Bundle" or about.get("type") not in _TYPES:
        raise DataError("SB-308", "The consent source is not a FHIR searchset or collection")
    links = about.get("link", [])
    for link in links if isinstance(links, list) else [None]:
        if not isinstance(link, dict) or link.get("relation") != "self":
            raise DataError(
                "SB-308",
                "The consent source is one page of several: its bundle links to others",
                "Export all pages into one bundle",
            )
    total = about.get("total")
    if total is not None and total != matches:
        raise DataError(
            "SB-308", f"The consent source has {matches} of {total} matches: it is not whole"
        )


def _made(about: dict[str, Any]) -> tuple[dt.datetime, ...]:
    """Return when the bundle says that it was made: its timestamp and meta.lastUpdated.

    Raises:
        DataError: SB-308, one of them cannot be read.
    """
    meta = about.get("meta", {})
    updated = meta.get("lastUpdated") if isinstance(meta, dict) else ""
    found = []
    for text in (about.get("timestamp"), updated):
        if text is None:
            continue
        moment = start_of(text) if isinstance(text, str) else None
        if moment is None:
            raise DataError("SB-308", "The consent source does not say clearly when it was made")
        found.append(moment)
    return tuple(found)
