"""Who takes part in a secure sum that survives dropouts, and which sum is meant (privacy.md rule 8).

The double mask of Bonawitz et al. 2017 for nodes that only answer orders. One round takes four orders:

    setup    a fresh mask key and self seed, in sealed shares for every hospital   sums/mask_setup.py
    mask     the vector under its own mask and one mask for each peer              sums/double_masks.py
    agree    one survivor set, recorded on disk, then signed                       sums/survivors.py
    open     for a survivor the share of its seed, for another that of its key     sums/unmasking.py

Three rules make sure that one sum opens, and no second one. All of them are the hospitals' to keep, since
the coordinator may lie to each of them in another way:

1. a setup masks one vector, ever: two vectors under the same masks show their difference;
2. a node signs one survivor set for a round of a run, ever, whichever attempt: a round is the same work
   in every attempt, so two sums over it would differ by what one hospital sent;
3. a node releases shares only for a set that `threshold` of its members signed, and for each hospital
   either of the seed or of the key.

Two sets with `threshold` signatures each share more than `colluders` signers where
2 · threshold > nodes + colluders, so an honest one among them would have signed twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.messages.message import Digest, Message, RoundNumber, RunId
from solblom_protocol.messages.order import OrderKind
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope

MIN_HONEST_SURVIVORS = 2


class SumRound(Message):
    """Which sum is meant. Everything that is signed, sealed or derived for it carries these members.

    Attributes:
        roster: `SumRoster.digest`; names the study, the run, all nodes' keys and both limits.
        kind: what is summed; each kind numbers its rounds from 1.
        attempt: a new one has new setups; the work is the same.
    """

    run: RunId
    roster: Digest
    kind: OrderKind
    number: RoundNumber
    attempt: RoundNumber

    def differences(self, other: "SumRound") -> str:
        """Return the names of the members that differ, for a message; empty where none does."""
        mine, theirs = self.model_dump(), other.model_dump()
        return ", ".join(name for name in mine if mine[name] != theirs[name])


@dataclass(frozen=True)
class SumRoster:
    """The nodes of a run as they stand in the signed study, and what is assumed about them.

    Attributes:
        study: digest of the signed study.
        nodes: the signing key of each site.
        threshold: how many survivors, cosignatures and share releases a sum needs.
        colluders: how many nodes may work together with the coordinator.

    Raises:
        ConfigurationError: SB-103, one key twice; no colluder (each node knows its own vector, rule 7); a
        sum that shows colluders the vector of one hospital; or limits under which two sets could be agreed.
    """

    study: str
    run: str
    nodes: Mapping[str, Ed25519PublicKey]
    threshold: int
    colluders: int

    def __post_init__(self) -> None:
        # A copy: nobody changes who takes part once the digest is known.
        object.__setattr__(self, "nodes", MappingProxyType(dict(sorted(self.nodes.items()))))
        count = len(self.nodes)
        if len(self._sites_by_key) != count:
            raise ConfigurationError("SB-103", "Two hospitals of a secure sum have one signing key")
        if self.colluders < 1:
            raise ConfigurationError(
                "SB-103", "A secure sum assumes at least one colluder: a node knows its own vector"
            )
        if self.threshold > count:
            raise ConfigurationError(
                "SB-103", f"A secure sum of {count} hospitals cannot need {self.threshold} of them"
            )
        if 2 * self.threshold <= count + self.colluders:
            raise ConfigurationError(
                "SB-103",
                f"With {count} hospitals, a threshold of {self.threshold} and {self.colluders} colluders, two "
                "survivor sets could each find enough cosigners",
                "Raise the threshold: twice the threshold must exceed hospitals plus colluders",
            )
        if self.threshold - self.colluders < MIN_HONEST_SURVIVORS:
            raise ConfigurationError(
                "SB-103",
                f"A sum of {self.threshold} hospitals shows {self.colluders} colluders what one hospital sent",
            )

    def __hash__(self) -> int:
        """Return the hash of the digest."""
        return hash(self.digest)

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """All sites, sorted."""
        return tuple(self.nodes)

    @cached_property
    def digest(self) -> str:
        """The digest of study, run, nodes and limits: a node that was told another roster shares no mask."""
        return digest(
            canonical_json(
                {
                    "schema": "solblom.sum-roster/1",
                    "study": self.study,
                    "run": self.run,
                    "nodes": {site: key_id(key) for site, key in self.nodes.items()},
                    "threshold": self.threshold,
                    "colluders": self.colluders,
                }
            )
        )

    def round(self, *, kind: OrderKind, number: int, attempt: int) -> SumRound:
        """Return the name of one of the run's sums."""
        return SumRound(run=self.run, roster=self.digest, kind=kind, number=number, attempt=attempt)

    def check_round(self, of: SumRound) -> None:
        """Refuse a sum of another roster or run; what a node remembers is filed under the run.

        Raises:
            IntegrityError: SB-404.
        """
        if (of.run, of.roster) != (self.run, self.digest):
            raise IntegrityError(
                "SB-404", f"The sum is not one of the run {self.run} and its roster"
            )

    def index(self, site: str) -> int:
        """Return at which point, from 1, the site's shares are taken: its place in the sorted roster.

        Raises:
            IntegrityError: SB-404, not in the roster.
        """
        self.key(site)
        return self.sites.index(site) + 1

    def key(self, site: str) -> Ed25519PublicKey:
        """Return a site's signing key.

        Raises:
            IntegrityError: SB-404, not in the roster.
        """
        if site not in self.nodes:
            raise IntegrityError("SB-404", f"{site} is not in the roster of the secure sum")
        return self.nodes[site]

    def open_signed(self, envelope: bytes, *, payload_type: str, what: str) -> tuple[str, bytes]:
        """Return who of the roster signed an envelope, and its payload; exactly one must have.

        Raises:
            IntegrityError: SB-405, not a valid signature by one node of the roster.
        """
        signers, payload = self.open_cosigned(envelope, payload_type=payload_type, what=what)
        if len(signers) != 1:
            raise IntegrityError("SB-405", f"{what} has {len(signers)} signatures, not one")
        return signers[0], payload

    def open_cosigned(
        self, envelope: bytes, *, payload_type: str, what: str
    ) -> tuple[tuple[str, ...], bytes]:
        """Return who of the roster signed an envelope, each once, and its payload.

        Raises:
            IntegrityError: SB-405, a signature that is not a node's of the roster.
        """
        # Opening hashes every key it is given, so it gets those that the envelope names.
        named = {name: key for name, key in self._keys_by_id.items() if name.encode() in envelope}
        try:
            opened = open_envelope(envelope, payload_type=payload_type, keys=named)
        except EnvelopeError as error:
            raise IntegrityError("SB-405", f"{what} is not a hospital's: {error}") from None
        return tuple(self._sites_by_key[key] for key in opened.signers), opened.payload

    def check_own_key(self, site: str, key: Ed25519PrivateKey) -> None:
        """Refuse to sign for a site with a key that is not its own.

        Raises:
            IntegrityError: SB-404.
        """
        if key_id(self.key(site)) != key_id(key.public_key()):
            raise IntegrityError("SB-404", f"{site} stands in the roster with another key")

    @cached_property
    def _keys_by_id(self) -> dict[str, Ed25519PublicKey]:
        return {key_id(key): key for key in self.nodes.values()}

    @cached_property
    def _sites_by_key(self) -> dict[str, str]:
        return {key_id(key): site for site, key in self.nodes.items()}


def check_round(found: SumRound, expected: SumRound, *, what: str) -> None:
    """Refuse what was made for another sum.

    Raises:
        IntegrityError: SB-404, names the members that differ.
    """
    differences = found.differences(expected)
    if differences:
        raise IntegrityError("SB-404", f"{what} is of another sum: {differences}")
