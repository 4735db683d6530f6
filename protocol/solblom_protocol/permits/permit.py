"""A permit: what a data access body allows a study to do at which hospitals, until when, and at what price in privacy.

A compact JWS whose claims are a GA4GH visa (ControlledAccessGrants), data use terms (DUO) and what a
federation needs besides: the digest of the signed study, so every setting is inside, the node's
code, limits of rounds and runs, epsilon, the roster of a secure sum (privacy.md rule 8), and the day on
which the noise root is destroyed (rule 12). A permit never replaces a hospital's own approval: both are needed.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError, model_validator

from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.message import Digest, KeyId, Message, SiteName
from solblom_protocol.permits.duo import DISEASE_SPECIFIC, DUO_TERMS, GENERAL_RESEARCH
from solblom_protocol.permits.issuer import Issuer, IssuerName
from solblom_protocol.permits.jws import JwsError, open_token, sign_token
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import CanonicalError, canonical_json, digest, parse_json
from solblom_verify.envelope import key_id

PERMIT_TYPE = "permit+jwt"
MAX_PERMIT_BYTES = 128 * 1024  # a thousand sites, and a roster of as many

Seconds = Annotated[int, Field(ge=0, lt=2**40)]  # since 1970; whole: a time has one spelling
Jti = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{7,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=4000)]
Uri = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]{1,20}:[!-~]{1,300}$")]
Epsilon = Annotated[str, Field(pattern=r"^([0-9]{1,3}(\.[0-9]{1,6})?|off)$")]
Delta = Annotated[str, Field(pattern=r"^([1-9]e-[0-9]{1,2}|0\.[0-9]{1,20})$")]
Output = Literal["model_update_dp", "model_update", "score_histogram", "table_one", "site_auroc"]
Disease = Annotated[str, Field(pattern=r"^[A-Za-z]{2,16}:[A-Za-z0-9.]{1,32}$")]


class Visa(Message):
    """The GA4GH visa object (AAI profile 1.2, ControlledAccessGrants)."""

    type: Literal["ControlledAccessGrants"]
    asserted: Seconds
    value: Uri  # the data set
    source: Uri  # who grants
    by: Literal["self", "peer", "system", "so", "dac"]


class DataUse(Message):
    """A data use term, with the disease where the term is about one."""

    id: Annotated[str, Field(pattern=r"^DUO:[0-9]{7}$")]
    disease: Disease | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.id not in DUO_TERMS:
            raise ValueError("unknown data use term")
        if (self.disease is not None) != (self.id == DISEASE_SPECIFIC):
            raise ValueError("a disease belongs to DUO:0000007, and it needs one")
        return self


class Limits(Message):
    """How much may be asked of each hospital."""

    rounds_max: Annotated[int, Field(ge=1, le=1_000_000)]  # of training, over all runs
    runs_max: Annotated[int, Field(ge=1, le=10_000)]
    min_cohort: Annotated[int, Field(ge=2, le=1_000_000)]


class Privacy(Message):
    """The most that the study may cost a patient."""

    unit: Literal["patient", "family"]
    eps_max: Epsilon  # "off" also allows a study without privacy
    delta: Delta


class Member(Message):
    """A hospital of a secure sum, by name and signing key."""

    site: SiteName
    key: KeyId


class SecureSum(Message):
    """Who adds up under masks, and what is assumed of them (privacy.md rules 7 and 8)."""

    roster: Annotated[tuple[Member, ...], Field(min_length=3, max_length=1000)]
    threshold: Annotated[int, Field(ge=2, le=1000)]
    colluders: Annotated[int, Field(ge=1, le=1000)]


class RevocationRule(Message):
    """How old the list of revoked permits may be."""

    max_age_seconds: Annotated[int, Field(ge=60, le=366 * 86400)]


class Grant(Message):
    """What Solblom adds to a visa."""

    v: Literal[1]
    legal_basis: Annotated[tuple[Text, ...], Field(min_length=1, max_length=20)]
    duo: Annotated[tuple[DataUse, ...], Field(min_length=1, max_length=40)]
    purpose: Text
    study: Digest
    code: Annotated[tuple[Digest, ...], Field(max_length=100)]  # empty: any the hospital approved
    limits: Limits
    dp: Privacy
    secure_sum: SecureSum | None = None
    outputs: Annotated[tuple[Output, ...], Field(min_length=1, max_length=5)]
    noise_key_destroy_by: Seconds
    crl: RevocationRule

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        terms = [use.id for use in self.duo]
        if len(set(self.duo)) != len(self.duo) or len(set(self.outputs)) != len(self.outputs):
            raise ValueError("a term or an output stands twice")
        if GENERAL_RESEARCH in terms and DISEASE_SPECIFIC in terms:
            raise ValueError("any research and one disease contradict each other")
        return self


class Permit(Message):
    """The claims of a permit. Times are whole seconds since 1970 (RFC 7519, NumericDate)."""

    iss: IssuerName
    sub: Annotated[str, Field(pattern=r"^study:[a-z0-9][a-z0-9-]{0,62}$")]
    aud: Annotated[tuple[SiteName, ...], Field(min_length=1, max_length=1000)]
    jti: Jti
    iat: Seconds
    nbf: Seconds
    exp: Seconds
    ga4gh_visa_v1: Visa
    fl_permit: Grant

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.exp <= max(self.nbf, self.iat):
            raise ValueError("it ends before it begins")
        if len(set(self.aud)) != len(self.aud):
            raise ValueError("a site stands twice")
        return self

    @property
    def ends(self) -> int:
        """The second from which nothing runs and the noise root is destroyed (privacy.md rule 12)."""
        return min(self.exp, self.fl_permit.noise_key_destroy_by)


@dataclass(frozen=True)
class SignedPermit:
    """A permit whose signature was checked.

    Attributes:
        digest: SHA-256 of the token: names this very permit.
        issuer: the pinned key that signed it.
    """

    permit: Permit
    token: bytes
    digest: str
    issuer: Issuer


def sign_permit(permit: Permit, key: Ed25519PrivateKey) -> bytes:
    """Return the token of a permit."""
    claims = permit.model_dump(mode="json", by_alias=True, exclude_none=True)
    return sign_token(canonical_json(claims), kind=PERMIT_TYPE, key=key)


def open_permit(data: bytes, issuers: Mapping[str, Issuer]) -> SignedPermit:
    """Return the permit in a file, signed by one of the pinned issuers (key id → issuer).

    Raises:
        RefusedError: SB-217, whatever is wrong with it.
    """
    return _open_permit(data.rstrip(b"\n"), tuple(sorted(issuers.items())))


@lru_cache(maxsize=64)  # the same bytes under the same keys, before every order
def _open_permit(token: bytes, pinned: tuple[tuple[str, Issuer], ...]) -> SignedPermit:
    issuers = dict(pinned)
    keys = {known: issuer.key for known, issuer in issuers.items()}
    try:
        opened = open_token(token, kind=PERMIT_TYPE, keys=keys, max_bytes=MAX_PERMIT_BYTES)
        parse_json(opened.payload)  # a key given twice is two permits in one
        permit = Permit.model_validate_json(opened.payload)
    except JwsError as error:
        raise RefusedError("SB-217", f"The permit does not hold: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or first["msg"]
        raise RefusedError("SB-217", f"The permit has wrong members, first {where}") from None
    except (CanonicalError, ValueError):
        raise RefusedError("SB-217", "The permit's payload is not plain JSON") from None
    issuer = issuers[opened.key_id]
    if permit.iss != issuer.name:
        raise RefusedError("SB-217", "The permit names another issuer than the key that signed it")
    return SignedPermit(permit, token, digest(token), issuer)


def check_dates(permit: Permit, *, now: dt.datetime) -> None:
    """Refuse a permit before and after its time; `exp` itself is too late (RFC 7519, section 4.1.4).

    Raises:
        RefusedError: SB-217.
    """
    second = now.timestamp()
    if second < max(permit.nbf, permit.iat):
        raise RefusedError("SB-217", f"The permit is not valid before {moment(permit.nbf)}")
    if second >= permit.exp:
        raise RefusedError("SB-217", f"The permit expired at {moment(permit.exp)}")
    if second >= permit.ends:
        raise RefusedError(
            "SB-217", f"The permit has the noise root destroyed by {moment(permit.ends)}"
        )


def check_covers(permit: Permit, document: StudyDocument, *, site: str, code: str) -> None:
    """Refuse a permit that is not for this study at this hospital, with this code.

    The study's digest covers every setting; the rest is checked all the same, so that an issuer's slip or a
    permit that contradicts itself is seen, and the reason is named.

    Raises:
        RefusedError: SB-217.
    """
    grant, study = permit.fl_permit, document.study
    if site not in permit.aud:
        raise _refused(f"is not for {site}")
    if permit.sub != f"study:{study.study.name}" or grant.study != document.digest:
        raise _refused("is for another study, or for other settings of it")
    if grant.purpose != study.study.purpose:
        raise _refused("names another purpose than the study")
    unnamed = set(study.study.duo) - {use.id for use in grant.duo}
    if unnamed:
        raise _refused(f"lacks data use terms of the study: {', '.join(sorted(unnamed))}")
    if grant.code and code not in grant.code:
        raise _refused("lists other code than what is installed here")
    if study.training.rounds > grant.limits.rounds_max:
        raise _refused(f"allows {grant.limits.rounds_max} rounds; the study has more")
    missing = outputs_of(document) - set(grant.outputs)
    if missing:
        raise _refused(f"does not let out: {', '.join(sorted(missing))}")
    _check_privacy(grant.dp, document)
    if secure_sum_of(document) != grant.secure_sum:
        raise _refused("names other hospitals, threshold or colluders for the secure sum")


def _check_privacy(granted: Privacy, document: StudyDocument) -> None:
    privacy = document.study.privacy
    if granted.unit != privacy.unit:
        raise _refused(f"is for privacy by {granted.unit}")
    if granted.eps_max == "off":
        return
    if privacy.epsilon == "off":
        raise _refused("does not allow a study without privacy")
    if Decimal(repr(privacy.epsilon)) > Decimal(granted.eps_max):
        raise _refused(f"allows epsilon {granted.eps_max}; the study's is {privacy.epsilon:g}")
    if Decimal(repr(privacy.delta)) > Decimal(granted.delta):
        raise _refused(f"allows delta {granted.delta}; the study's is larger")


def outputs_of(document: StudyDocument) -> set[Output]:
    """Return what a study lets leave a hospital, in the words of a permit."""
    study = document.study
    found: set[Output] = {
        "model_update" if document.noise_multiplier is None else "model_update_dp"
    }
    if study.evaluation.releases:
        found.add("score_histogram")
    if study.table_one is not None:
        found.add("table_one")
    if study.evaluation.named:
        found.add("site_auroc")
    return found


def secure_sum_of(document: StudyDocument) -> SecureSum | None:
    """Return the study's secure sum in the words of a permit."""
    plan, table = document.secure_sum, document.study.secure_sum
    if plan is None or table is None:
        return None
    roster = tuple(Member(site=m.site, key=key_id(m.key)) for m in plan.roster.members)
    return SecureSum(roster=roster, threshold=document.threshold, colluders=table.colluders)


def check_usage(
    permit: Permit, *, used: frozenset[tuple[str, int]], runs: frozenset[str], now: tuple[str, int]
) -> None:
    """Refuse a round or a run beyond the permit's limits.

    `used` are the rounds of training charged here so far, as (run, round); `runs` the runs that were charged
    anything; `now` the run that asks, and its round of training or 0. What was charged before is no new use.

    Raises:
        RefusedError: SB-217.
    """
    limits, (run, round_number) = permit.fl_permit.limits, now
    if len(runs | {run}) > limits.runs_max:
        raise _refused(f"allows {limits.runs_max} runs, and as many were made")
    if round_number and len(used | {now}) > limits.rounds_max:
        raise _refused(f"allows {limits.rounds_max} rounds, and as many were made")


def moment(seconds: int) -> str:
    """Return a NumericDate as RFC 3339 UTC."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _refused(what: str) -> RefusedError:
    return RefusedError("SB-217", f"The permit {what}")
