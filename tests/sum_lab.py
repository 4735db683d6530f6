"""Hospitals of a secure sum: their keys, setups, masked vectors and releases, all from fixed seeds.

`SumLab` calls the product's pure functions, with no memory between the calls: what a coordinator could get
from nodes that forget. `sum_nodes` are real nodes with a record on disk.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_client.masks.record import MaskRecord
from solblom_client.masks.sum_node import SumNode
from solblom_client.state import VaultState, create_state
from solblom_protocol.messages.order import OrderKind
from solblom_protocol.sums.double_masks import mask_vector
from solblom_protocol.sums.mask_setup import (
    DealtSetup,
    MaskSecrets,
    Participants,
    participants_of,
    read_dealt_setup,
    read_dealt_share,
    read_participants,
    read_share_keys,
    write_setup,
    write_share_key,
)
from solblom_protocol.sums.mask_shares import SharePair
from solblom_protocol.sums.ring import Ring, Words
from solblom_protocol.sums.roster import SumRoster, SumRound
from solblom_protocol.sums.survivors import (
    AgreedSurvivors,
    SurvivorSet,
    check_cosignatures,
    cosign_survivors,
    join_cosignatures,
)
from solblom_protocol.sums.unmasking import ShareRelease, dropped_sites, read_release, write_release

STUDY = "sha256:" + "5" * 64
MODEL = "sha256:" + "6" * 64
OTHER_MODEL = "sha256:" + "7" * 64


def seeded(*parts: object) -> bytes:
    """Return 32 bytes that follow from the parts."""
    return hashlib.sha256(repr(parts).encode()).digest()


def site_names(count: int) -> tuple[str, ...]:
    return tuple(f"h{n:02}" for n in range(count))


def signing_key(site: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seeded("sign", site))


def share_key(site: str, run: str = "run-1") -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(seeded("share", site, run))


def secrets_of(site: str, of: SumRound) -> MaskSecrets:
    names = (site, of.run, of.kind, of.number, of.attempt)
    return MaskSecrets(seeded("mask", *names)[:16], seeded("self", *names)[:16])


def least_threshold(count: int, colluders: int = 1) -> int:
    """Return the smallest threshold that a roster may have: the most dropouts."""
    return max((count + colluders) // 2 + 1, colluders + 2)


@cache
def sum_roster(
    count: int, threshold: int | None = None, colluders: int = 1, run: str = "run-1"
) -> SumRoster:
    return SumRoster(
        study=STUDY,
        run=run,
        nodes={site: signing_key(site).public_key() for site in site_names(count)},
        threshold=least_threshold(count, colluders) if threshold is None else threshold,
        colluders=colluders,
    )


def handed(
    roster: SumRoster, of: SumRound, answers: Iterable[bytes], recipient: str
) -> list[bytes]:
    """Return what an order to one hospital carries of these setups."""
    return [read_dealt_setup(roster, of, one).hand_to(recipient).encode() for one in answers]


def told(roster: SumRoster, of: SumRound, answers: Iterable[bytes], recipient: str) -> Participants:
    """Return what one hospital reads in such an order."""
    papers = handed(roster, of, answers, recipient)
    return read_participants(roster, of, papers, recipient=recipient)


class SumLab:
    """All hospitals of one sum."""

    def __init__(
        self,
        roster: SumRoster,
        *,
        kind: OrderKind = "train",
        number: int = 1,
        attempt: int = 1,
    ) -> None:
        self.roster = roster
        self.of = roster.round(kind=kind, number=number, attempt=attempt)
        self.share_keys = [
            write_share_key(
                roster,
                share_key(site, roster.run).public_key(),
                site=site,
                signing_key=signing_key(site),
            )
            for site in roster.sites
        ]
        keys = read_share_keys(roster, self.share_keys)
        self.setups = {
            site: write_setup(
                roster,
                self.of,
                site=site,
                secrets=secrets_of(site, self.of),
                share_keys=keys,
                signing_key=signing_key(site),
            )
            for site in roster.sites
        }
        self._participants: dict[tuple[str, ...], Participants] = {}
        self._shares: dict[tuple[str, str], SharePair] = {}
        self._cosignatures: dict[tuple[str, str], bytes] = {}

    def participants(self, sites: Iterable[str] | None = None) -> Participants:
        names = self.roster.sites if sites is None else tuple(sorted(sites))
        if names not in self._participants:
            dealt = [self.dealt(site) for site in names]
            self._participants[names] = participants_of(self.roster, self.of, dealt)
        return self._participants[names]

    def dealt(self, site: str) -> DealtSetup:
        return read_dealt_setup(self.roster, self.of, self.setups[site])

    def vector(
        self,
        ring: Ring,
        values: Words,
        site: str,
        participants: Participants,
        *,
        model: str = MODEL,
    ) -> Words:
        return mask_vector(
            ring,
            values,
            participants=participants,
            site=site,
            secrets=secrets_of(site, self.of),
            base_model=model,
        )

    def choose(self, participants: Participants, survivors: Sequence[str]) -> SurvivorSet:
        """Name a survivor set as a hostile coordinator may: of any size, of anybody."""
        return SurvivorSet(
            schema="solblom.survivors/1",
            round=participants.round,
            participants=participants.digest,
            base_model=MODEL,
            survivors=sorted(survivors),
        )

    def cosign(self, asked: SurvivorSet, site: str) -> bytes:
        if (asked.digest, site) not in self._cosignatures:
            self._cosignatures[(asked.digest, site)] = cosign_survivors(
                self.roster, asked, site=site, signing_key=signing_key(site)
            )
        return self._cosignatures[(asked.digest, site)]

    def agree(self, asked: SurvivorSet, cosigners: Iterable[str]) -> AgreedSurvivors:
        envelopes = [self.cosign(asked, site) for site in cosigners]
        return check_cosignatures(self.roster, asked, join_cosignatures(envelopes))

    def share(self, participants: Participants, owner: str, recipient: str) -> SharePair:
        known = (owner, participants.share(owner, recipient).sealed)
        if known not in self._shares:
            self._shares[known] = read_dealt_share(
                participants,
                owner=owner,
                recipient=recipient,
                key=share_key(recipient, self.roster.run),
            )
        return self._shares[known]

    def release(self, participants: Participants, agreed: AgreedSurvivors, site: str) -> bytes:
        dropped = dropped_sites(participants, agreed)
        return write_release(
            self.roster,
            agreed,
            site=site,
            seeds={s: self.share(participants, s, site).seed for s in agreed.chosen.survivors},
            keys={s: self.share(participants, s, site).key for s in dropped},
            signing_key=signing_key(site),
        )

    def releases(
        self, participants: Participants, agreed: AgreedSurvivors, sites: Iterable[str]
    ) -> list[ShareRelease]:
        return [
            read_release(
                self.roster, participants, agreed, self.release(participants, agreed, site)
            )
            for site in sites
        ]


def draw_values(ring: Ring, roster: SumRoster, *, size: int, seed: int) -> dict[str, Words]:
    """Return a vector for each hospital, with the corners that the range proof allows."""
    largest = 2 ** (ring.bits - 1) // len(roster.sites) - 1
    random = np.random.default_rng(seed)
    draws = random.integers(-largest, largest, (len(roster.sites), size), endpoint=True)
    draws[:, 0], draws[:, 1] = largest, -largest
    return {site: ring.encode(draw) for site, draw in zip(roster.sites, draws, strict=True)}


def plain_sum(ring: Ring, values: dict[str, Words], sites: Iterable[str]) -> list[int]:
    """Return the sum in Python's unbounded integers."""
    columns = [ring.decode(values[site]).tolist() for site in sites]
    return [sum(column) for column in zip(*columns, strict=True)]


def mask_record(folder: Path) -> MaskRecord:
    """Return a record in a new state file, or in the one that is there."""
    path = folder / "vault.sqlite"
    if not path.exists():
        create_state(path, {})
    state = VaultState(path)
    state.query("PRAGMA synchronous=OFF")  # the tests pull no plug
    return MaskRecord(state)


def sum_nodes(roster: SumRoster, folder: Path) -> dict[str, SumNode]:
    """Return real nodes, each with a record of its own."""
    return {
        site: SumNode(roster, site, signing_key(site), mask_record(folder / site))
        for site in roster.sites
    }
