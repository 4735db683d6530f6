"""Whose each Consent of a bundle is, under every name that the patient has.

Names that one Consent ties together, a reference and an identifier, are one patient's: what any record says
of one of them, it says of all. A name that two patients share takes part under no rule, and two patients whom a
Consent makes one take part under no name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from solblom_client.consent.sources.fhir_consent import FhirConsent, FhirSettings
from solblom_client.consent.sources.record import ConsentRecord, Person, add_person
from solblom_protocol.errors import DataError

Node = int | str
"""A Patient of the bundle by its place; `Patient/ID` that is in no entry; `=name` that no Patient has."""


class FhirPatient(NamedTuple):
    """A Patient resource.

    Attributes:
        names: all that it may have in the hospital's own tables.
        references: logical id and address by which a Consent may refer to it.
        merged: logical ids, addresses and identifiers of records with which it was merged.
        address: the web address of its entry.
    """

    names: tuple[str, ...]
    references: tuple[str, ...]
    person: Person
    merged: tuple[str, ...]
    address: str | None


Said = FhirConsent | FhirPatient
"""What one entry says, whatever stands around it."""


class Resolved(NamedTuple):
    """Records and persons by name, and names that take part under no rule."""

    records: tuple[ConsentRecord, ...]
    people: dict[str, Person]
    doubtful: frozenset[str]


def names_of(
    logical: str | None, identifiers: tuple[tuple[str | None, str], ...], settings: FhirSettings
) -> tuple[str, ...]:
    """Return every name that a patient may have in the hospital's own tables."""
    system = settings.identifier_system
    if system is not None:
        return tuple(dict.fromkeys(value for kind, value in identifiers if kind == system))
    values = (value for _, value in identifiers)
    return tuple(dict.fromkeys((*([logical] if logical else []), *values)))


def keys_of(said: Said) -> tuple[str, ...]:
    """Return every name, id and address by which an entry may have to do with another one.

    `resolve` brings two entries together only by one of these, or by a chain of them.
    """
    if isinstance(said, FhirPatient):
        return (*said.names, *said.references, *said.merged)
    reference = () if said.reference is None else (said.reference,)
    return (*reference, *(value for _, value in said.identifiers))


def resolve(entries: Iterable[Said], settings: FhirSettings) -> Resolved:
    """Give each consent every name of its patient.

    Raises:
        DataError: SB-308, a consent whose patient is not known: it might be anybody's withdrawal; one Patient
            in two ways.
    """
    consents: list[FhirConsent] = []
    patients: list[FhirPatient] = []
    by_reference: dict[str, int] = {}
    for said in entries:
        if isinstance(said, FhirPatient):
            _add_patient(said, patients, by_reference)
        else:
            consents.append(said)
    names = _Names(patients, by_reference, settings)
    whose = names.read(consents)
    records: list[ConsentRecord] = []
    for consent, nodes in zip(consents, whose, strict=True):
        said_of_it = consent[3:]
        if len(nodes) > 1 and consent.verdict == "granted":
            said_of_it = ("unclear", *said_of_it[1:])  # one of several gave it; nobody knows which
        for node in nodes:
            found = names.of(node)
            if not found:
                raise DataError("SB-308", "The consent source has a consent of an unknown patient")
            records += [ConsentRecord(name, *said_of_it) for name in found]
    people: dict[str, Person] = {}
    for number, patient in enumerate(patients):
        for name in names.of(number):
            add_person(people, name, patient.person)
    return Resolved(tuple(records), people, frozenset(names.doubtful()))


def _add_patient(
    patient: FhirPatient, patients: list[FhirPatient], by_reference: dict[str, int]
) -> None:
    """Add a Patient, or join it with what the bundle says of the same one: the more careful of both.

    Raises:
        DataError: SB-308, the two are not the same.
    """
    places = {by_reference[text] for text in patient.references if text in by_reference}
    if places:
        place = min(places)
        before = patients[place]
        addresses = {before.address, patient.address} - {None}
        if len(places) > 1 or before.names != patient.names or len(addresses) > 1:
            raise DataError("SB-308", "The consent source has one Patient twice, in two ways")
        both = {"": before.person}
        add_person(both, "", patient.person)
        patients[place] = before._replace(
            person=both[""],
            merged=before.merged + patient.merged,
            address=before.address or patient.address,
        )
    else:
        place = len(patients)
        patients.append(patient)
    for text in patient.references:
        by_reference[text] = place


@dataclass
class _Names:
    """The names of each patient, and which of them Consents tie together."""

    patients: list[FhirPatient]
    by_reference: dict[str, int]
    settings: FhirSettings
    owners: dict[str, tuple[Node, ...]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)  # by logical id
    parents: dict[Node, Node] = field(default_factory=dict)  # of nodes that were tied to another
    groups: dict[Node, tuple[Node, ...]] = field(default_factory=dict)
    tied: dict[Node, tuple[str, ...]] = field(default_factory=dict)

    def read(self, consents: Sequence[FhirConsent]) -> list[tuple[Node, ...]]:
        """Return whose each consent is; several patients where nobody can tell."""
        for number, patient in enumerate(self.patients):
            for name in patient.names:
                self._own(name, number)
        nodes = [self._referred(consent) for consent in consents]
        for node in nodes:
            if isinstance(node, str):
                for name in self._names(node):
                    self._own(name, node)
        whose = [self._whose(*pair) for pair in zip(consents, nodes, strict=True)]
        self._gather()
        return whose

    def _whose(self, consent: FhirConsent, node: Node | None) -> tuple[Node, ...]:
        """Return whose a consent is, and tie its patient to the identifier that it has besides the reference."""
        if node is not None and not consent.identifiers:
            return (node,)  # the common case
        held: tuple[Node, ...] = ()
        for name in names_of(None, consent.identifiers, self.settings):
            held += self.owners.get(name) or (f"={name}",)
        if node is None:
            if not held:
                raise DataError("SB-308", "The consent source has a consent of an unknown patient")
            return held
        if node not in held:
            for other in held:
                self._tie(node, other)
        return (node,)

    def of(self, node: Node) -> tuple[str, ...]:
        """Return every name of a patient, with those that were tied to it."""
        if not self.parents:  # the common case
            return self._names(node)
        return self.tied.get(self._root(node)) or self._names(node)

    def doubtful(self) -> set[str]:
        """Return names that take part under no rule: shared by patients, or of merged records."""
        found = {name for name, owners in self.owners.items() if len(owners) > 1}
        for root, group in self.groups.items():
            if sum(not str(node).startswith("=") for node in group) > 1:
                found.update(self.of(root))
        for number, patient in enumerate(self.patients):
            if patient.merged:
                found.update(self.of(number))
            for other in patient.merged:
                found.add(other)
                place = self.by_reference.get(other)
                known = self.owners.get(other, ()) + (() if place is None else (place,))
                for node in (*known, f"Patient/{other}", f"={other}"):
                    found.update(self.of(node))
        return found

    def _referred(self, consent: FhirConsent) -> Node | None:
        """Return to whom a consent's reference points.

        Raises:
            DataError: SB-308, an address that no Patient of the bundle has.
        """
        reference = consent.reference
        if reference is None:
            return None
        number = self.by_reference.get(reference)
        if number is None:
            if ":" in reference:
                raise DataError(
                    "SB-308",
                    "The consent source has a consent whose patient's address is in no entry",
                )
            self._check_one_server(reference, consent.patient_address)
            return f"Patient/{reference}"
        if ":" not in reference:
            self._check_one_server(reference, self.patients[number].address)
            self._check_one_server(reference, consent.patient_address)
        return number

    def _check_one_server(self, logical: str, address: str | None) -> None:
        """Refuse a logical id that stands for patients of two servers.

        Raises:
            DataError: SB-308.
        """
        if address is not None and self.addresses.setdefault(logical, address) != address:
            raise DataError("SB-308", "The consent source has one logical id of two servers")

    def _own(self, name: str, node: Node) -> None:
        before = self.owners.setdefault(name, (node,))
        if node not in before:
            self.owners[name] = (*before, node)

    def _names(self, node: Node) -> tuple[str, ...]:
        """Return the names that a node has of its own."""
        if isinstance(node, int):
            return self.patients[node].names
        if node.startswith("="):
            return (node[1:],)
        return names_of(node.removeprefix("Patient/"), (), self.settings)

    def _root(self, node: Node) -> Node:
        while (parent := self.parents.get(node)) is not None:
            above = self.parents.get(parent)
            if above is not None:
                self.parents[node] = above  # shorter for the next one
            node = parent
        return node

    def _tie(self, one: Node, other: Node) -> None:
        one, other = self._root(one), self._root(other)
        if one != other:
            self.parents[other] = one

    def _gather(self) -> None:
        """Collect nodes and names of each group."""
        groups: dict[Node, list[Node]] = {}
        for node in dict.fromkeys((*self.parents, *self.parents.values())):
            groups.setdefault(self._root(node), []).append(node)
        self.groups = {root: tuple(nodes) for root, nodes in groups.items()}
        for root, nodes in groups.items():
            names = (name for node in nodes for name in self._names(node))
            self.tied[root] = tuple(dict.fromkeys(names))
