"""The survivor set: whose vectors a sum has. One for a round of a run, ever, and `threshold` of it must sign.

Bonawitz et al. 2017, figure 4, round 3 (ConsistencyCheck), the version against an active coordinator. What makes a
set the only one is counting (docstring of sums/roster.py), and each node's memory of what it signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from solblom_protocol.errors import IntegrityError, RefusedError, RunError
from solblom_protocol.messages.message import Digest, Message, SiteName
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.sums.mask_setup import Participants
from solblom_protocol.sums.roster import SumRoster, SumRound, check_round
from solblom_verify.canonical import canonical_json, digest, parse_canonical

SURVIVORS_PAYLOAD_TYPE = "application/vnd.solblom.survivors+json"


class SurvivorSet(Message):
    """Whose vectors are summed.

    Attributes:
        participants: `Participants.digest`, so the keys of all masks in the vectors.
        base_model: as in the order for the vectors.
        survivors: sites whose vectors arrived, sorted.
    """

    schema_: Literal["solblom.survivors/1"] = Field(alias="schema")
    round: SumRound
    participants: Digest
    base_model: Digest
    survivors: list[SiteName]

    @property
    def digest(self) -> str:
        """The digest of what is signed."""
        return digest(self.payload())


@dataclass(frozen=True)
class MaskedWork:
    """What a node remembers of the one vector that it masked under a setup.

    Attributes:
        participants: `Participants.digest`.
        base_model: as in the order.
        sites: whose masks are in the vector.
    """

    round: SumRound
    participants: str
    base_model: str
    sites: tuple[str, ...]


@dataclass(frozen=True)
class AgreedSurvivors:
    """A survivor set with enough valid cosignatures; only `check_cosignatures` makes one."""

    chosen: SurvivorSet
    cosigners: tuple[str, ...]


def choose_survivors(
    roster: SumRoster, participants: Participants, *, base_model: str, survivors: Sequence[str]
) -> SurvivorSet:
    """Return the set that the coordinator asks the survivors to sign: whose vectors it has.

    Raises:
        RunError: SB-501, fewer than the threshold: says how many came and whose is missing.
    """
    if len(survivors) < roster.threshold:
        missing = ", ".join(site for site in participants.setups if site not in survivors)
        raise RunError(
            "SB-501",
            f"{len(survivors)} masked vectors came, {roster.threshold} are needed; missing: {missing}",
        )
    return SurvivorSet(
        schema="solblom.survivors/1",
        round=participants.round,
        participants=participants.digest,
        base_model=base_model,
        survivors=sorted(survivors),
    )


def check_survivors(roster: SumRoster, asked: SurvivorSet, *, masked: MaskedWork) -> None:
    """Refuse a set that is not of the vectors that were masked, or that is too small.

    Raises:
        IntegrityError: SB-404, of another sum, of other setups or another model, not sorted, somebody who
        took no part, or fewer than the threshold. Names them.
    """
    roster.check_round(asked.round)
    check_round(asked.round, masked.round, what="The survivor set")
    if asked.participants != masked.participants:
        raise IntegrityError("SB-404", "The survivor set belongs to other mask setups")
    if asked.base_model != masked.base_model:
        raise IntegrityError("SB-404", "The survivor set belongs to another base model")
    names = asked.survivors
    strange = [site for site in names if site not in masked.sites]
    if strange:
        raise IntegrityError(
            "SB-404", f"In the survivor set, but without a mask setup: {', '.join(strange)}"
        )
    if names != sorted(set(names)):
        raise IntegrityError("SB-404", "The survivor set is not sorted, or names a hospital twice")
    if len(names) < roster.threshold:
        missing = ", ".join(site for site in masked.sites if site not in names)
        raise IntegrityError(
            "SB-404",
            f"{len(names)} hospitals survived, {roster.threshold} are needed; missing: {missing}",
        )


def check_only_one(asked: SurvivorSet, *, recorded: SurvivorSet | None) -> None:
    """Refuse a second survivor set of a round, also in another attempt.

    In every attempt the round is the same work, so two opened sets would show the difference between two sums.

    Raises:
        RefusedError: SB-207, says how the sets differ.
    """
    if recorded is None or recorded == asked:
        return
    what = "a second survivor set"
    if recorded.round != asked.round:
        what += f" (differs in: {asked.round.differences(recorded.round)})"
    raise RefusedError(
        "SB-207",
        f"Round {asked.round.number} has a survivor set already ({', '.join(recorded.survivors)}); the order names "
        f"{what}: {', '.join(asked.survivors)}",
    )


def cosign_survivors(
    roster: SumRoster, asked: SurvivorSet, *, site: str, signing_key: Ed25519PrivateKey
) -> bytes:
    """Return a survivor's signature on the set; record the set on disk first.

    Raises:
        IntegrityError: SB-404, the site is no survivor, or the roster has another key for it.
    """
    roster.check_own_key(site, signing_key)
    if site not in asked.survivors:
        raise IntegrityError("SB-404", f"{site} is not in the survivor set and does not sign it")
    return sign_envelope(asked.payload(), SURVIVORS_PAYLOAD_TYPE, [signing_key])


def read_cosignature(roster: SumRoster, asked: SurvivorSet, envelope: bytes) -> str:
    """Return which survivor signed exactly this set.

    Raises:
        IntegrityError: SB-405, signed by no node of the roster; SB-404, another set, or the signer is no
        survivor. Names the signer.
    """
    signer, payload = roster.open_signed(
        envelope, payload_type=SURVIVORS_PAYLOAD_TYPE, what="A cosignature"
    )
    _check_signed(asked, payload, [signer])
    return signer


def join_cosignatures(envelopes: Sequence[bytes]) -> bytes:
    """Return one envelope with the signatures of several checked ones, each once: what an order carries.

    Raises:
        IntegrityError: SB-404, they signed different things, or nobody did.
    """
    found: list[Any] = [parse_canonical(envelope) for envelope in envelopes]
    if len({(one["payload"], one["payloadType"]) for one in found}) != 1:
        raise IntegrityError("SB-404", "The cosignatures are not of one survivor set")
    signatures = {signature["keyid"]: signature for one in found for signature in one["signatures"]}
    joined = {**found[0], "signatures": [signatures[key] for key in sorted(signatures)]}
    return canonical_json(joined)


def check_cosignatures(roster: SumRoster, asked: SurvivorSet, envelope: bytes) -> AgreedSurvivors:
    """Return the set as agreed: at least `threshold` of its members have signed it, in one envelope.

    Raises:
        IntegrityError: SB-405, a signature that is none, repeated, or of no node of the roster; SB-404,
        another set, a signer that is no survivor, or too few: names who is missing.
    """
    roster.check_round(asked.round)
    if len(set(asked.survivors)) < roster.threshold:
        raise IntegrityError(
            "SB-404", f"{len(asked.survivors)} hospitals survived, {roster.threshold} are needed"
        )
    cosigners, payload = roster.open_cosigned(
        envelope, payload_type=SURVIVORS_PAYLOAD_TYPE, what="A cosignature"
    )
    _check_signed(asked, payload, cosigners)
    if len(cosigners) < roster.threshold:
        missing = ", ".join(site for site in asked.survivors if site not in cosigners)
        raise IntegrityError(
            "SB-404",
            f"{len(cosigners)} hospitals signed the survivor set, {roster.threshold} are needed; missing: {missing}",
        )
    return AgreedSurvivors(asked, tuple(sorted(cosigners)))


def _check_signed(asked: SurvivorSet, payload: bytes, signers: Sequence[str]) -> None:
    names = ", ".join(signers)
    if payload != asked.payload():
        raise IntegrityError("SB-404", f"{names} signed another survivor set")
    strange = [site for site in signers if site not in asked.survivors]
    if strange:
        raise IntegrityError(
            "SB-404", f"{', '.join(strange)} signed a survivor set that it is not in"
        )
