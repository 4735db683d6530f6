"""How an issuer makes keys, permits and lists of revoked permits."""

import base64
import datetime as dt
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from solblom_protocol.errors import ConfigurationError, RefusedError
from solblom_protocol.keys.key_files import private_pem, read_signing_key, write_new
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.message import as_json
from solblom_protocol.permits.duo import DISEASE_SPECIFIC
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.permit import (
    DataUse,
    Grant,
    Limits,
    Permit,
    Privacy,
    RevocationRule,
    Visa,
    open_permit,
    outputs_of,
    secure_sum_of,
    sign_permit,
)
from solblom_protocol.permits.revocations import (
    RevocationList,
    open_revocations,
    sign_revocations,
)
from solblom_protocol.studies.study import StudyDocument, open_study, parse_document, study_payload
from solblom_verify.canonical import CanonicalError, digest, parse_json
from solblom_verify.envelope import public_key_to_pem
from solblom_verify.wording import format_delta

DAY = 86_400


@dataclass(frozen=True)
class Terms:
    """What an issuer decides; everything else follows from the study."""

    sites: tuple[str, ...]
    days: int
    rounds: int
    runs: int = 1
    min_cohort: int = 10
    legal_basis: tuple[str, ...] = ()
    duo: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    dataset: str = "urn:solblom:dataset"
    list_days: int = 7


@dataclass(frozen=True)
class Issued:
    """A permit that was written: its id, the study it names, and its claims as plain values."""

    jti: str
    study: str
    claims: dict[str, Any]


def now_seconds() -> int:
    """Return the present moment in whole seconds since 1970."""
    return int(dt.datetime.now(dt.UTC).timestamp())


def make_issuer(folder: Path, name: str, issuer: str) -> tuple[Path, Path, Issuer]:
    """Write NAME.key and NAME.pub.

    Raises:
        ConfigurationError: SB-103 the name cannot be used; SB-113 a file exists.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name) or not re.fullmatch(
        r"[!-~]{1,200}", issuer
    ):
        raise ConfigurationError(
            "SB-103",
            "The name cannot name files, or the issuer has spaces or letters beyond ASCII",
            "Name: small letters, digits, hyphens. Issuer: best a URL",
        )
    key = Ed25519PrivateKey.generate()
    made = Issuer.of(issuer, key.public_key())
    key_file, public_file = folder / f"{name}.key", folder / f"{name}.pub"
    write_new(key_file, private_pem(key))
    write_new(public_file, made.to_bytes(), mode=0o644)
    return key_file, public_file, made


def permit_for(document: StudyDocument, terms: Terms, *, issuer: str, jti: str, now: int) -> Permit:
    """Return the claims of a permit for a study.

    Raises:
        ConfigurationError: SB-103, the terms make no permit.
    """
    study, until = document.study, now + terms.days * DAY
    _check_granted(study.study.duo, terms.duo)
    privacy = study.privacy
    try:
        return Permit(
            iss=issuer,
            sub=f"study:{study.study.name}",
            aud=tuple(sorted(terms.sites)),
            jti=jti,
            iat=now,
            nbf=now,
            exp=until,
            ga4gh_visa_v1=Visa(
                type="ControlledAccessGrants",
                asserted=now,
                value=terms.dataset,
                source=issuer if ":" in issuer else f"urn:solblom:issuer:{issuer}",
                by="dac",
            ),
            fl_permit=Grant(
                v=1,
                legal_basis=terms.legal_basis or study.study.legal_basis,
                duo=_data_use(terms.duo or study.study.duo),
                purpose=study.study.purpose,
                study=document.digest,
                code=terms.code,
                limits=Limits(
                    rounds_max=terms.rounds, runs_max=terms.runs, min_cohort=terms.min_cohort
                ),
                dp=Privacy(
                    unit=privacy.unit,
                    eps_max=_epsilon(privacy.epsilon),
                    delta=_delta(privacy.delta),
                ),
                secure_sum=secure_sum_of(document),
                outputs=tuple(sorted(outputs_of(document))),
                noise_key_destroy_by=until,
                crl=RevocationRule(max_age_seconds=terms.list_days * DAY),
            ),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError("SB-103", f"{where or 'permit'}: {first['msg']}") from None


def issue_permit(
    envelope: bytes, researcher: Path | None, key_file: Path, terms: Terms, now: int, file: Path
) -> tuple[Issued, str]:
    """Write a permit for a signed study; return what it says, and its digest.

    Raises:
        SolblomError: the study is not signed by the researcher; a key or the terms are wrong; the
            file exists (SB-113).
    """
    document = _read_study(envelope, researcher)
    issuer, key = _issuer_of(key_file)
    permit = permit_for(document, terms, issuer=issuer.name, jti=str(uuid.uuid4()), now=now)
    token = sign_permit(permit, key)
    write_new(file, token + b"\n", mode=0o644)
    return Issued(permit.jti, document.digest, as_json(permit)), digest(token)


def revoke_permits(file: Path, jti: tuple[str, ...], key_file: Path, now: int) -> RevocationList:
    """Add to an issuer's list of revoked permits, and write it anew with a later `iat`.

    Raises:
        RefusedError: SB-218, the list that is there is not the issuer's.
        ConfigurationError: SB-103, an id cannot be one.
    """
    issuer, key = _issuer_of(key_file)
    before: RevocationList | None = None
    if file.exists():
        opened = open_revocations(file.read_bytes(), {issuer.key_id: issuer})
        before = opened[issuer.key_id].list
    known = () if before is None else before.revoked
    try:
        made = RevocationList(
            v=1,
            iss=issuer.name,
            iat=now if before is None else max(now, before.iat + 1),
            revoked=tuple(sorted({*known, *jti})),
        )
    except ValidationError:
        raise ConfigurationError("SB-103", "That is no id of a permit (`jti`)") from None
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(sign_revocations(made, key) + b"\n")
    partial.replace(file)
    return made


def describe_file(data: bytes, issuer_file: Path | None) -> dict[str, Any]:
    """Return the claims of a permit or of a list, and whether its signature was checked.

    Raises:
        RefusedError: SB-217 or SB-218, it is no such token.
    """
    issuers: Mapping[str, Issuer] = {}
    if issuer_file is not None:
        issuer = Issuer.read(issuer_file)
        issuers = {issuer.key_id: issuer}
        try:
            permit = open_permit(data, issuers)
            return {
                "kind": "permit",
                "signature_checked": True,
                "digest": permit.digest,
                "claims": as_json(permit.permit),
            }
        except RefusedError as error:
            if "type" not in error.message:
                raise
        (found,) = open_revocations(data, issuers).values()
        return {
            "kind": "revocations",
            "signature_checked": True,
            "digest": found.digest,
            "claims": as_json(found.list),
        }
    return _unchecked(data)


def _unchecked(data: bytes) -> dict[str, Any]:
    token = data.rstrip(b"\n")
    parts = token.split(b".")
    try:
        if len(parts) != 3 or len(token) > 8 * 1024**2:
            raise ValueError("not a compact JWS")
        padded = parts[1] + b"=" * (-len(parts[1]) % 4)
        claims = parse_json(base64.urlsafe_b64decode(padded))
    except (ValueError, CanonicalError):
        raise RefusedError("SB-217", "The file is neither a permit nor a revocation list") from None
    kind = "permit" if isinstance(claims, dict) and "fl_permit" in claims else "revocations"
    return {
        "kind": kind,
        "signature_checked": False,
        "digest": digest(token),
        "claims": claims if isinstance(claims, dict) else {},
    }


def _issuer_of(key_file: Path) -> tuple[Issuer, Ed25519PrivateKey]:
    """Return the issuer whose private key this is; its name stands in the .pub file beside it.

    Raises:
        ConfigurationError: SB-109.
    """
    key = read_signing_key(key_file)
    issuer = Issuer.read(key_file.with_suffix(".pub"))
    if issuer.pem != public_key_to_pem(key.public_key()):
        raise ConfigurationError("SB-109", f"{key_file} and the .pub beside it are not one pair")
    return issuer, key


def _check_granted(asked: tuple[str, ...], given: tuple[str, ...]) -> None:
    """Refuse to issue what every hospital would refuse (SB-217)."""
    granted = {term.partition("=")[0] for term in given}
    lacking = sorted(set(asked) - granted) if given else []
    if lacking:
        raise ConfigurationError(
            "SB-103",
            f"The study names {', '.join(lacking)}, which --duo does not grant: hospitals would refuse the permit",
            "Grant them with --duo too, or ask the researcher to sign a study without them",
        )


def _data_use(terms: tuple[str, ...]) -> tuple[DataUse, ...]:
    """Return data use terms as a permit spells them.

    Raises:
        ConfigurationError: SB-103, there is none, or a disease is missing.
    """
    if not terms:
        raise ConfigurationError(
            "SB-103",
            "The study names no data use term, and a permit needs one",
            "Give it, such as `--duo DUO:0000042` (general research use)",
        )
    found = []
    for term in terms:
        name, _, disease = term.partition("=")
        if name == DISEASE_SPECIFIC and not disease:
            raise ConfigurationError(
                "SB-103",
                f"{DISEASE_SPECIFIC} is about one disease, and none is named",
                f"Name it: `--duo {DISEASE_SPECIFIC}=MONDO:0005148`; give all other terms of the study too",
            )
        found.append(DataUse(id=name, disease=disease or None))
    return tuple(found)


def _epsilon(epsilon: float | str) -> str:
    """Return an epsilon as a permit spells it, rounded up: never below the study's own."""
    if not isinstance(epsilon, float | int):
        return "off"
    step = Decimal("0.000001")
    text = f"{Decimal(repr(float(epsilon))).quantize(step, rounding=ROUND_UP):f}"
    return text.rstrip("0").rstrip(".")


def _delta(delta: float) -> str:
    """Return a delta as a permit spells it: 1e-5, or all its decimals."""
    text = format_delta(delta)
    return text if re.fullmatch(r"[1-9]e-[0-9]{1,2}", text) else f"{Decimal(repr(delta)):f}"


def _read_study(envelope: bytes, researcher: Path | None) -> StudyDocument:
    """Return the signed study; without the researcher's keys its signature is left to the hospitals.

    Raises:
        SolblomError: it is no signed study, or not the researcher's.
    """
    if researcher is not None:
        public = PublicKeys.read(researcher)
        return open_study(envelope, {public.key_id: public.signing})
    return parse_document(study_payload(envelope))
