"""Permits that are forged, borrowed, outdated, revoked or exceeded: no row is read, and the site's log says why.

Every case runs against the real vault. Where `node approve` would refuse first, the permit is put beside a real
approval with `force`, so that the gate is attacked on its own; the same permits are also offered for approval.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lab import study_document
from security.observer import Observer
from security.permit_lab import DAY, JTI, LabIssuer, PermitLab, b64, mac_token, token
from solblom_client.approvals.record import approval_folder
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.result import Result
from solblom_protocol.permits.jws import ACCEPTED
from solblom_protocol.permits.permit import MAX_PERMIT_BYTES


@pytest.fixture
def lab(observer: Observer) -> PermitLab:
    """A hospital that needs permits, with a study approved under an honest one."""
    made = PermitLab(
        observer,
        LabIssuer(),
        study_document(study={"duo": ["DUO:0000027"]}, evaluation={"releases": 1}),
    )
    (observer.hospital.folder / "issuer.pub").write_bytes(made.issuer.public.to_bytes())
    observer.edit_config(
        "[consent]", '[permit]\nrequired = true\nissuers = ["issuer.pub"]\n[consent]'
    )
    made.publish()
    made.approve(made.honest())
    return made


def answered(lab: PermitLab, **order: Any) -> Result:
    reply = lab.hospital.ask(lab.hospital.order(lab.study, **order))
    assert isinstance(reply, Result), reply
    return reply


def test_an_honest_permit_lets_the_study_train(lab: PermitLab) -> None:
    answered(lab)
    answered(lab, round=2)
    assert lab.root()


@pytest.mark.parametrize("algorithm", ACCEPTED)
def test_both_names_of_ed25519_are_taken(lab: PermitLab, algorithm: str) -> None:
    claims = lab.issuer.claims(lab.study, lab.hospital)
    lab.approve(lab.issuer.sign(claims, alg=algorithm))
    answered(lab)


# --- Tokens that are forged or misspelt

Forgery = Callable[[PermitLab, dict[str, Any]], bytes]


def _resigned(change: Callable[[dict[str, Any]], Any]) -> Forgery:
    """Change the claims, and let the real issuer sign them."""

    def forge(lab: PermitLab, claims: dict[str, Any]) -> bytes:
        change(claims)
        return lab.issuer.sign(claims)

    return forge


def _header(**changes: Any) -> Forgery:
    return lambda lab, claims: lab.issuer.sign(claims, **changes)


def _without_kid(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    return token(lab.issuer.key, claims, {"alg": "Ed25519", "typ": "permit+jwt"})


def _unsigned(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    return lab.issuer.sign(claims, alg="none").rpartition(b".")[0] + b"."


def _mac_with_pem(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    return mac_token(lab.issuer.public.pem.encode(), claims, lab.issuer.header(alg="HS256"))


def _mac_with_raw(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    raw = lab.issuer.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return mac_token(raw, claims, lab.issuer.header(alg="HS256"))


def _another_issuer(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    return LabIssuer().sign(claims)


def _another_key_under_the_pinned_id(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    return token(Ed25519PrivateKey.generate(), claims, lab.issuer.header())


def _key_inside(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    own = LabIssuer()
    raw = own.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return own.sign(claims, jwk={"kty": "OKP", "crv": "Ed25519", "x": b64(raw)})


def _tampered(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    head, _, signature = lab.issuer.sign(claims).split(b".")
    claims["fl_permit"]["dp"]["eps_max"] = "100"
    return b".".join((head, b64(json.dumps(claims).encode()).encode(), signature))


def _claims_twice(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    text = json.dumps(claims)
    return lab.issuer.sign(text[:-1].encode() + b', "exp": 99999999999}')


def _header_twice(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    text = json.dumps(lab.issuer.header())
    return token(lab.issuer.key, claims, text[:-1].encode() + b', "alg": "Ed25519"}')


def _oversized(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    claims["fl_permit"]["purpose"] = "x" * MAX_PERMIT_BYTES
    return lab.issuer.sign(claims)


def _json_serialised(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    head, body, signature = lab.issuer.sign(claims).decode().split(".")
    return json.dumps({"protected": head, "payload": body, "signature": signature}).encode()


def _spare_bits(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    honest = lab.issuer.sign(claims)
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return honest[:-1] + bytes([letters[letters.index(honest[-1:]) ^ 1]])


def _deep(lab: PermitLab, claims: dict[str, Any]) -> bytes:
    return lab.issuer.sign(b"[" * 5000 + b"]" * 5000)


FORGERIES: dict[str, tuple[Forgery, str]] = {
    "alg-none": (_unsigned, "the algorithm is not Ed25519"),
    "alg-none-with-a-signature": (_header(alg="none"), "the algorithm is not Ed25519"),
    "alg-NONE": (_header(alg="NONE"), "the algorithm is not Ed25519"),
    "alg-es256": (_header(alg="ES256"), "the algorithm is not Ed25519"),
    "hmac-with-the-public-key-as-secret": (_mac_with_pem, "the algorithm is not Ed25519"),
    "hmac-with-the-raw-public-key": (_mac_with_raw, "the algorithm is not Ed25519"),
    "wrong-kid": (_header(kid="1" * 64), "a key that is not pinned"),
    "kid-that-is-no-text": (_header(kid=1), "no text"),
    "no-kid": (_without_kid, "other members than alg, typ and kid"),
    "another-issuer": (_another_issuer, "a key that is not pinned"),
    "another-key-under-the-pinned-kid": (
        _another_key_under_the_pinned_id,
        "signature is not valid",
    ),
    "its-own-key-inside": (_key_inside, "other members than alg, typ and kid"),
    "critical-header": (_header(crit=["b64"], b64=False), "other members than alg, typ and kid"),
    "typ-jwt": (_header(kind="JWT"), "the type is not permit+jwt"),
    "typ-of-a-revocation-list": (_header(kind="revocations+jwt"), "the type is not permit+jwt"),
    "claims-changed-after-signing": (_tampered, "signature is not valid"),
    "a-claim-twice": (_claims_twice, "not plain JSON"),
    "a-header-member-twice": (_header_twice, "the header is not JSON"),
    "oversized": (_oversized, "larger than"),
    "json-serialisation": (_json_serialised, "not a compact JWS"),
    "padded-base64": (lambda lab, claims: lab.issuer.sign(claims) + b"=", "not base64url"),
    "spare-bits-of-base64": (_spare_bits, "one spelling"),
    "deeply-nested": (_deep, "not plain JSON"),
    "empty": (lambda lab, claims: b"", "not a compact JWS"),
    "an-extra-claim": (_resigned(lambda c: c.update(admin=True)), "wrong members, first admin"),
    "an-extra-member-inside": (
        _resigned(lambda c: c["fl_permit"].update(clip_max="1.0")),
        "first fl_permit.clip_max",
    ),
    "a-missing-limit": (
        _resigned(lambda c: c["fl_permit"].pop("limits")),
        "first fl_permit.limits",
    ),
    "exp-as-text": (_resigned(lambda c: c.update(exp="4102444800")), "first exp"),
    "exp-as-a-float": (_resigned(lambda c: c.update(exp=4102444800.0)), "first exp"),
    "exp-as-infinity": (
        lambda lab, claims: lab.issuer.sign(json.dumps(claims | {"exp": float("inf")}).encode()),
        "not plain JSON",
    ),
    "site-as-text": (_resigned(lambda c: c.update(aud="north")), "first aud"),
    "unknown-data-use-term": (
        _resigned(lambda c: c["fl_permit"].update(duo=[{"id": "DUO:9999999"}])),
        "first fl_permit.duo",
    ),
    "contradicting-data-use-terms": (
        _resigned(
            lambda c: c["fl_permit"].update(
                duo=[
                    {"id": "DUO:0000027"},
                    {"id": "DUO:0000042"},
                    {"id": "DUO:0000007", "disease": "MONDO:0005148"},
                ]
            )
        ),
        "first fl_permit",
    ),
    "epsilon-as-a-number": (_resigned(lambda c: c["fl_permit"]["dp"].update(eps_max=2)), "eps_max"),
    "epsilon-nan": (_resigned(lambda c: c["fl_permit"]["dp"].update(eps_max="nan")), "eps_max"),
    "another-version": (_resigned(lambda c: c["fl_permit"].update(v=2)), "first fl_permit.v"),
    "another-visa": (
        _resigned(lambda c: c["ga4gh_visa_v1"].update(type="ResearcherStatus")),
        "first ga4gh_visa_v1.type",
    ),
    "another-issuers-name": (
        _resigned(lambda c: c.update(iss="https://other.example.no")),
        "names another issuer",
    ),
    "ends-before-it-begins": (_resigned(lambda c: c.update(exp=c["nbf"])), "ends before it begins"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_permit_is_refused_by_the_gate(lab: PermitLab, name: str) -> None:
    forge, because = FORGERIES[name]
    lab.force(forge(lab, lab.issuer.claims(lab.study, lab.hospital)))
    lab.assert_refused("SB-217", because)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_permit_cannot_be_approved(lab: PermitLab, name: str) -> None:
    forged = FORGERIES[name][0](lab, lab.issuer.claims(lab.study, lab.hospital))
    with pytest.raises(RefusedError) as caught:
        lab.approve(forged)
    assert caught.value.code == "SB-217"
    answered(lab)  # the approval that stood still stands


# --- Permits of the real issuer that do not cover what is asked


def _grant(**changes: Any) -> Forgery:
    return _resigned(lambda c: c["fl_permit"].update(changes))


def _dates(**days: int) -> Forgery:
    def change(claims: dict[str, Any]) -> None:
        today = claims["iat"]
        for name, n in days.items():
            claims[name] = today + n * DAY

    return _resigned(change)


MEMBERS = [{"site": f"s{n}", "key": "1" * 64} for n in range(3)]
UNCOVERED: dict[str, tuple[Forgery, str]] = {
    "another-site": (_resigned(lambda c: c.update(aud=["south"])), "is not for north"),
    "not-yet-valid": (_dates(nbf=1), "not valid before"),
    "issued-in-the-future": (_dates(iat=1), "not valid before"),
    "expired": (_dates(iat=-40, nbf=-40, exp=-1), "expired at"),
    "noise-root-due": (
        _resigned(lambda c: c["fl_permit"].update(noise_key_destroy_by=c["iat"])),
        "noise root destroyed by",
    ),
    "another-study": (_resigned(lambda c: c.update(sub="study:other")), "another study"),
    "other-settings": (_grant(study="sha256:" + "0" * 64), "other settings"),
    "another-purpose": (_grant(purpose="Insurance"), "another purpose"),
    "another-data-use": (_grant(duo=[{"id": "DUO:0000043"}]), "lacks data use terms"),
    "other-code": (_grant(code=["sha256:" + "c" * 64]), "lists other code"),
    "fewer-rounds-than-the-study": (
        _grant(limits={"rounds_max": 2, "runs_max": 1, "min_cohort": 10}),
        "allows 2 rounds",
    ),
    "less-epsilon": (
        _grant(dp={"unit": "patient", "eps_max": "1.999999", "delta": "1e-5"}),
        "allows epsilon 1.999999",
    ),
    "less-delta": (
        _grant(dp={"unit": "patient", "eps_max": "2", "delta": "9e-6"}),
        "allows delta 9e-6",
    ),
    "another-unit": (
        _grant(dp={"unit": "family", "eps_max": "2", "delta": "1e-5"}),
        "is for privacy by family",
    ),
    "fewer-outputs": (_grant(outputs=["model_update_dp"]), "does not let out: score_histogram"),
    "a-secure-sum-that-the-study-lacks": (
        _grant(secure_sum={"roster": MEMBERS, "threshold": 3, "colluders": 1}),
        "names other hospitals",
    ),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_a_permit_that_does_not_cover_the_order_is_refused_by_the_gate(
    lab: PermitLab, name: str
) -> None:
    forge, because = UNCOVERED[name]
    lab.force(forge(lab, lab.issuer.claims(lab.study, lab.hospital)))
    lab.assert_refused("SB-217", because)


@pytest.mark.parametrize("name", UNCOVERED)
def test_a_permit_that_does_not_cover_the_study_cannot_be_approved(
    lab: PermitLab, name: str
) -> None:
    forge, because = UNCOVERED[name]
    with pytest.raises(RefusedError, match=because) as caught:
        lab.approve(forge(lab, lab.issuer.claims(lab.study, lab.hospital)))
    assert caught.value.code == "SB-217"


# --- Missing and swapped


def test_a_hospital_that_needs_permits_approves_nothing_without_one(lab: PermitLab) -> None:
    lab.study = study_document(study={"duo": ["DUO:0000027"]}, training={"learning_rate": 0.25})
    with pytest.raises(RefusedError, match="needs a permit") as caught:
        lab.approve(None)
    assert caught.value.code == "SB-217"
    assert not approval_folder(lab.hospital.config, lab.study.digest).exists()


def test_an_approval_of_before_permits_were_needed_is_refused(lab: PermitLab) -> None:
    lab.observer.edit_config("required = true", "required = false")
    lab.study = study_document()
    lab.approve(None)
    answered(lab)
    lab.observer.edit_config("required = false", "required = true")
    lab.assert_refused("SB-217", "needs a permit", round=2)


def test_a_permit_is_checked_though_none_is_required(lab: PermitLab) -> None:
    lab.observer.edit_config("required = true", "required = false")
    answered(lab)
    lab.publish(JTI)
    lab.assert_refused("SB-218", "is revoked", round=2)


def test_a_permit_swapped_after_the_approval_for_another_valid_one_is_refused(
    lab: PermitLab,
) -> None:
    other = lab.honest(jti="another-permit", rounds=1000)
    (approval_folder(lab.hospital.config, lab.study.digest) / "permit.jws").write_bytes(other)
    lab.assert_refused("SB-217", "not the one with which")


def test_a_permit_that_is_gone_after_the_approval_is_refused(lab: PermitLab) -> None:
    (approval_folder(lab.hospital.config, lab.study.digest) / "permit.jws").unlink()
    lab.assert_refused("SB-217", "cannot be read")


def test_a_permit_of_an_issuer_who_is_no_longer_pinned_is_refused(lab: PermitLab) -> None:
    (lab.hospital.folder / "issuer.pub").write_bytes(LabIssuer().public.to_bytes())
    lab.assert_refused("SB-217", "a key that is not pinned")


def test_approving_again_without_a_permit_does_not_take_it_away(lab: PermitLab) -> None:
    lab.observer.edit_config("required = true", "required = false")
    lab.approve(None)
    lab.publish(JTI)
    lab.assert_refused("SB-218", "is revoked")
    with pytest.raises(RefusedError) as caught:
        lab.approve(None)
    assert caught.value.code == "SB-218"
