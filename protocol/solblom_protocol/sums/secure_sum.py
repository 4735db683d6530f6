"""What the secure sum of a study is: who adds up, on which ring, and how much noise each node adds.

Everything here is public and stands in the signed study, so that a hospital approves it: roster,
keys, assumed colluders, and whole-number standard deviations of the noise shares (privacy.md rules 7
and 8). How much privacy follows is computed from these numbers by `shared_event`, never declared.
"""

import math
from decimal import ROUND_CEILING, ROUND_DOWN, Decimal, localcontext
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.keys.key_files import public_pem, signing_key_from_pem
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.message import Message, SiteName, parse_message
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.sums.ring import Ring
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import key_id

MOST_NODES = 200
TAIL = 13  # standard deviations; a discrete Gaussian is beyond with probability below 1e-36
SMALLEST_SHARE = 4  # standard deviation on the ring; from here on the sum's slack is below 1e-60
FINEST_STEP = (
    64  # a clipped contribution has at least so many grid steps for each root of a dimension
)

Share = Annotated[int, Field(ge=SMALLEST_SHARE, lt=2**26)]


class Member(Message):
    """A hospital of the roster: its name, and the key with which its node signs."""

    site: SiteName
    signing_key: str

    @property
    def key(self) -> Ed25519PublicKey:
        """The signing key.

        Raises:
            ConfigurationError: SB-109.
        """
        return signing_key_from_pem(self.signing_key, source=f"the roster's key of {self.site}")


class Roster(Message):
    """roster.json: the hospitals whose vectors add up, sorted by site."""

    schema_: Literal["solblom.roster/1"] = Field(alias="schema")
    members: Annotated[tuple[Member, ...], Field(min_length=3, max_length=MOST_NODES)]

    @classmethod
    def of(cls, nodes: list[PublicKeys]) -> "Roster":
        """Return the roster of enrolled nodes.

        Raises:
            ConfigurationError: SB-103, fewer than three: of two, each would see the other's vector.
        """
        if not 3 <= len(nodes) <= MOST_NODES:
            raise ConfigurationError(
                "SB-103",
                f"A secure sum has 3 to {MOST_NODES} hospitals, not {len(nodes)}",
                'Let more hospitals in, or use noise = "local"',
            )
        members = [Member(site=n.name, signing_key=public_pem(n.signing)) for n in nodes]
        return cls(schema="solblom.roster/1", members=tuple(sorted(members, key=lambda m: m.site)))

    @property
    def keys(self) -> dict[str, Ed25519PublicKey]:
        """Each hospital's signing key, by site."""
        return {member.site: member.key for member in self.members}

    @property
    def digest(self) -> str:
        """The roster's identity: masks follow from it."""
        return digest(self.payload())

    def check(self) -> None:
        """Refuse a roster that names a site or a key twice, or is not sorted.

        Raises:
            ConfigurationError: SB-103 or SB-109.
        """
        sites = [member.site for member in self.members]
        if sites != sorted(set(sites)):
            raise ConfigurationError("SB-103", "The roster is not sorted or names a site twice")
        if len({key_id(key) for key in self.keys.values()}) != len(sites):
            raise ConfigurationError("SB-103", "Two hospitals of the roster have one key")


class SumPlan(Message):
    """What a study's secure sum needs besides its settings. All of it follows from them; all of it is signed.

    Attributes:
        values: numbers in one update.
        fractional_bits: a clipped sum is multiplied by two to this power, then rounded.
        training_share: standard deviation of one node's noise on an update, in grid steps.
        evaluation_share: the same on each count of a score histogram, in grid steps; None: none.
        table_one_share: the same on each count of Table 1.
    """

    roster: Roster
    values: Annotated[int, Field(ge=1, lt=2**40)]
    fractional_bits: Annotated[int, Field(ge=0, le=40)]
    training_share: Share
    evaluation_share: Share | None
    table_one_share: Share | None


COUNT_BITS = 8
"""Counts are multiplied by 256: their noise is then fine enough to be charged as what it is."""


def read_roster(path: Path) -> Roster:
    """Read roster.json.

    Raises:
        ConfigurationError: SB-101 or SB-103.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError("SB-101", f"{path} cannot be read: {error.strerror}") from None
    try:
        roster = parse_message(Roster, data.strip())
    except IntegrityError:
        raise ConfigurationError(
            "SB-101",
            f"{path.name} is not a roster of 3 to {MOST_NODES} hospitals",
            "Ask the coordinator's operator for `solblom coordinator roster`",
        ) from None
    roster.check()
    return roster


def write_roster(roster: Roster) -> bytes:
    """Return the bytes of roster.json."""
    return canonical_json(roster.model_dump(mode="json", by_alias=True)) + b"\n"


def fractional_bits(clipping_norm: float, values: int) -> int:
    """Return how fine the grid must be so that rounding costs little: at most 1/64 of the sensitivity.

    Raises:
        ConfigurationError: SB-103, the clipping norm is too small for any grid.
    """
    bits = max(0, math.ceil(math.log2(FINEST_STEP * math.sqrt(values) / clipping_norm)))
    if bits > 40:
        raise ConfigurationError(
            "SB-103",
            f"privacy.clipping_norm is {clipping_norm:g}: too small for {values} values on a grid",
            "Use a larger clipping norm and a smaller learning rate: their product is what counts",
        )
    return bits


def training_sensitivity(clipping_norm: float, bits: int, values: int) -> Decimal:
    """Return by how much one patient more or less moves a hospital's rounded sum, L2, in grid steps.

    2^f C for the clipped contribution, and sqrt(d) because rounding moves each value of both sums by
    up to a half (privacy.md rule 7; Kairouz, Liu & Steinke 2021, section 4, rounds at random instead).
    """
    with localcontext() as context:
        context.prec = 60
        moved: Decimal = Decimal(clipping_norm) * 2**bits + Decimal(values).sqrt()
        return moved


def count_sensitivity() -> Decimal:
    """Return by how much one patient more or less moves one count, in grid steps."""
    return Decimal(2**COUNT_BITS)


def shared_event(
    *,
    share: int,
    honest: int,
    sensitivity: Decimal,
    values: int,
    steps: int,
    patients_from: str,
    patients_to: str,
    patient_steps: int | None = None,
) -> PrivacyEvent:
    """Return what an opened sum does to a patient, by the theorem on sums of discrete Gaussians.

    The sum of n discrete Gaussians of deviation s is close to one of deviation sqrt(n) s; what lacks
    is the slack tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 s^2 k / (k+1)) for each of d values. The opened
    sum is (e^2 / 2)-concentrated DP with e = sensitivity / (sqrt(n) s) + tau sqrt(d) (Kairouz, Liu &
    Steinke 2021, Theorem 1). Both events are kept: what holds with `honest` nodes' noise, and what
    this node's own share gives alone. Figures are rounded towards more loss.

    Args:
        share: standard deviation of one node's noise, in grid steps.
        honest: how many shares are counted: the roster without the assumed colluders.
        sensitivity: of the sum to one patient, L2, in grid steps.
        values: d.
        steps: how many such sums.
        patients_from: where the touched part of the patients begins.
        patients_to: where it ends.
        patient_steps: where the unit is a family, how many such sums bound one patient's loss.
    """
    with localcontext() as context:
        context.prec = 60
        together = Decimal(honest).sqrt() * share / sensitivity
        alone = Decimal(share) / sensitivity
        # Each term is at most exp(-pi^2 s^2): k / (k+1) is at least one half; pi^2 is above 9.8696.
        tau = 10 * (honest - 1) * (Decimal("-9.8696") * share * share).exp()
        slack = tau * Decimal(values).sqrt()
    return PrivacyEvent(
        kind="shared-gaussian",
        sampling_rate="1",
        noise_multiplier=_places(together, 4, ROUND_DOWN),
        steps=steps,
        patients_from=patients_from,
        patients_to=patients_to,
        alone_noise_multiplier=_places(alone, 4, ROUND_DOWN),
        slack=_places(slack, 30, ROUND_CEILING),
        patient_steps=patient_steps,
    )


def largest_value(ring: Ring, *, nodes: int, share: int) -> int:
    """Return up to where one value of a hospital's sum is cut off, so that no sum can leave the ring.

    Raises:
        ConfigurationError: SB-103, the noise alone does not fit.
    """
    most = int(2 ** (ring.bits - 1) - 1) // nodes
    room = most - TAIL * share - 1
    if room < 1:
        raise ConfigurationError(
            "SB-103",
            f"Noise of {nodes} hospitals does not fit a ring of {ring.bits} bits",
            "Set secure_sum.ring_bits = 64",
        )
    ring.check_range(addends=nodes, largest=room + TAIL * share)
    return room


def _places(number: Decimal, places: int, rounding: str) -> str:
    with localcontext() as context:
        context.prec = 60
        return format(number.quantize(Decimal(1).scaleb(-places), rounding=rounding), "f")
