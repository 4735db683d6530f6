"""Permits and lists as tokens: one spelling, strict claims, and what an issuer's commands write."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from typer.testing import CliRunner

from lab import NOW, study_document
from solblom_protocol.cli import app
from solblom_protocol.errors import ConfigurationError, RefusedError, SolblomError
from solblom_protocol.keys.key_files import fingerprint
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.permits.duo import DUO_TERMS
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.issuing import Terms, permit_for
from solblom_protocol.permits.jws import JwsError, open_token, sign_token
from solblom_protocol.permits.permit import (
    Permit,
    check_covers,
    check_dates,
    check_usage,
    open_permit,
    sign_permit,
)
from solblom_protocol.permits.revocations import open_revocations
from solblom_protocol.studies.study import sign_study

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ISSUER = Issuer.of("https://hdab.example.no", KEY.public_key())
PINNED = {ISSUER.key_id: ISSUER}
STUDY = study_document(study={"duo": ["DUO:0000027"]})
TERMS = Terms(sites=("south", "north"), days=30, rounds=3)
SECOND = int(NOW.timestamp())


def permit(**terms: Any) -> Permit:
    return permit_for(
        STUDY, replace(TERMS, **terms), issuer=ISSUER.name, jti="permit-0001", now=SECOND
    )


Solblom = Callable[..., Result]


@pytest.fixture
def solblom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Solblom:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str | Path) -> Result:
        words = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["solblom", *words])
        return CliRunner().invoke(app, words)

    return invoke


# --- Tokens


def test_what_is_signed_is_read_back_and_no_byte_of_it_may_change() -> None:
    keys = {ISSUER.key_id: ISSUER.key}
    token = sign_token(b'{"a":1}', kind="permit+jwt", key=KEY)
    assert open_token(token, kind="permit+jwt", keys=keys, max_bytes=1000).payload == b'{"a":1}'
    for position in range(len(token)):
        for bit in range(8):
            changed = bytearray(token)
            changed[position] ^= 1 << bit
            with pytest.raises(JwsError):
                open_token(bytes(changed), kind="permit+jwt", keys=keys, max_bytes=1000)


def test_a_key_under_an_id_that_is_not_its_own_is_not_used() -> None:
    token = sign_token(b"{}", kind="x", key=KEY)
    other = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(JwsError, match="not pinned"):
        open_token(token, kind="x", keys={ISSUER.key_id: other}, max_bytes=1000)


# --- Claims


def test_a_permit_is_read_back_with_its_issuer_and_digest() -> None:
    opened = open_permit(sign_permit(permit(), KEY) + b"\n", PINNED)
    assert (opened.permit, opened.issuer) == (permit(), ISSUER)
    assert opened.permit.aud == ("north", "south")
    assert len(opened.token) < 2000


def test_the_dates_of_a_permit_are_half_open() -> None:
    check_dates(permit(), now=NOW)
    check_dates(permit(), now=NOW + timedelta(days=30, microseconds=-1))
    for moment_outside in (NOW - timedelta(microseconds=1), NOW + timedelta(days=30)):
        with pytest.raises(RefusedError):
            check_dates(permit(), now=moment_outside)


def test_a_permit_for_a_study_covers_it_at_each_of_its_sites() -> None:
    for site in ("north", "south"):
        check_covers(permit(), STUDY, site=site, code="sha256:" + "0" * 64)


@pytest.mark.parametrize("epsilon", [2.0, 0.1, 2.0000001, 1 / 3, 99.9999999])
@pytest.mark.parametrize("delta", [1e-5, 2.5e-6, 0.001, 1.25e-7])
def test_a_permit_as_issued_is_never_tighter_than_its_study(epsilon: float, delta: float) -> None:
    study = STUDY.study.privacy.model_copy(update={"epsilon": epsilon, "delta": delta})
    document = STUDY.model_copy(update={"study": STUDY.study.model_copy(update={"privacy": study})})
    made = permit_for(document, TERMS, issuer="x", jti="permit-0001", now=SECOND)
    check_covers(made, document, site="north", code="sha256:" + "0" * 64)


def test_what_was_charged_before_is_no_new_use() -> None:
    used = frozenset({("a", 1), ("a", 2), ("a", 3)})
    check_usage(permit(), used=used, runs=frozenset({"a"}), now=("a", 3))
    check_usage(permit(), used=used, runs=frozenset({"a"}), now=("a", 0))  # an evaluation
    with pytest.raises(RefusedError, match="allows 3 rounds"):
        check_usage(permit(), used=used, runs=frozenset({"a"}), now=("a", 4))
    with pytest.raises(RefusedError, match="allows 1 runs"):
        check_usage(permit(), used=used, runs=frozenset({"a"}), now=("b", 0))


@pytest.mark.parametrize(
    "terms",
    [
        {"sites": ()},
        {"sites": ("North",)},
        {"sites": ("north", "north")},
        {"duo": ("DUO:1234567",)},
        {"duo": ("DUO:0000007",)},
        {"duo": ("DUO:0000042=MONDO:0005148",)},
        {"code": ("sha256:x",)},
        {"dataset": "no uri"},
        {"min_cohort": 1},
    ],
    ids=str,
)
def test_terms_that_make_no_permit_are_named(terms: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        permit(**terms)
    assert caught.value.code == "SB-103"


def test_the_terms_of_data_use_have_a_meaning_in_both_languages() -> None:
    assert len(DUO_TERMS) >= 25
    assert all(meaning.en != meaning.no for meaning in DUO_TERMS.values())


# --- Commands


@pytest.fixture
def issued(solblom: Solblom, tmp_path: Path) -> Path:
    """An issuer's key, and a permit for a signed study."""
    assert solblom("permit", "key", "dac", "--issuer", "https://dac.example.no").exit_code == 0
    (tmp_path / "study.signed.json").write_bytes(sign_study(STUDY, Ed25519PrivateKey.generate()))
    done = solblom(
        *("permit", "issue", "study.signed.json", "--site", "north", "--site", "south"),
        *("--key", "dac.key", "--days", "30", "--rounds", "3", "--out", "permit.jws", "--json"),
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["schema"] == "solblom.permit.issue/1"
    assert told["study"] == STUDY.digest
    return tmp_path


def test_an_issuers_key_is_secret_and_its_fingerprint_is_the_same_everywhere(
    solblom: Solblom, issued: Path
) -> None:
    assert (issued / "dac.key").stat().st_mode & 0o777 == 0o600
    pinned = Issuer.read(issued / "dac.pub")
    assert pinned.name == "https://dac.example.no"
    shown = json.loads(solblom("key", "fingerprint", "dac.pub", "--json").stdout)["keys"][0]
    assert (shown["name"], shown["signing"]) == (pinned.name, fingerprint(pinned.key))
    assert solblom("permit", "key", "dac").exit_code == 3


def test_an_issued_permit_covers_the_study_and_shows_itself(solblom: Solblom, issued: Path) -> None:
    pinned = Issuer.read(issued / "dac.pub")
    opened = open_permit((issued / "permit.jws").read_bytes(), {pinned.key_id: pinned})
    check_covers(opened.permit, STUDY, site="south", code="sha256:" + "0" * 64)
    told = json.loads(
        solblom("permit", "show", "permit.jws", "--issuer", "dac.pub", "--json").stdout
    )
    assert (told["schema"], told["signature_checked"]) == ("solblom.permit.show/1", True)
    assert told["claims"]["fl_permit"]["dp"] == {
        "unit": "patient",
        "eps_max": "2",
        "delta": "1e-5",
    }
    unchecked = solblom("permit", "show", "permit.jws")
    assert "NOT CHECKED" in unchecked.stderr
    assert STUDY.digest in unchecked.stdout


def test_a_permit_of_another_issuer_is_not_shown_as_checked(solblom: Solblom, issued: Path) -> None:
    solblom("permit", "key", "other")
    assert solblom("permit", "show", "permit.jws", "--issuer", "other.pub").exit_code == 4


def test_a_study_of_another_researcher_is_not_permitted(solblom: Solblom, issued: Path) -> None:
    other = PublicKeys(
        "kari", Ed25519PrivateKey.generate().public_key(), X25519PrivateKey.generate().public_key()
    )
    (issued / "kari.pub").write_bytes(other.to_bytes())
    done = solblom(
        *("permit", "issue", "study.signed.json", "--site", "north", "--researcher", "kari.pub"),
        *("--key", "dac.key", "--days", "30", "--rounds", "3", "--out", "second.jws"),
    )
    assert done.exit_code == 5
    assert "SB-215" in done.stderr
    assert not (issued / "second.jws").exists()


def test_a_list_grows_and_its_moment_only_grows(solblom: Solblom, issued: Path) -> None:
    pinned = Issuer.read(issued / "dac.pub")

    def newest() -> tuple[int, tuple[str, ...]]:
        opened = open_revocations((issued / "list.jws").read_bytes(), {pinned.key_id: pinned})[
            pinned.key_id
        ].list
        return opened.iat, opened.revoked

    moments = []
    for jti in ("permit-0001", "permit-0002", None):
        given = [jti] if jti else []
        done = solblom(
            "permit", "revoke", *given, "--key", "dac.key", "--out", "list.jws", "--json"
        )
        assert json.loads(done.stdout)["schema"] == "solblom.permit.revoke/1"
        moments.append(newest()[0])
    assert newest()[1] == ("permit-0001", "permit-0002")
    assert moments == sorted(set(moments))
    shown = json.loads(
        solblom("permit", "show", "list.jws", "--issuer", "dac.pub", "--json").stdout
    )
    assert (shown["kind"], shown["signature_checked"]) == ("revocations", True)


def test_a_list_is_not_built_on_one_of_another_issuer(solblom: Solblom, issued: Path) -> None:
    solblom("permit", "key", "other")
    solblom("permit", "revoke", "permit-0001", "--key", "other.key", "--out", "list.jws")
    before = (issued / "list.jws").read_bytes()
    done = solblom("permit", "revoke", "permit-0002", "--key", "dac.key", "--out", "list.jws")
    assert (done.exit_code, (issued / "list.jws").read_bytes()) == (4, before)


@pytest.mark.parametrize("data", [b"", b"x", b"a.b.c", b"\xff" * 100, b"{}"], ids=repr)
def test_a_file_that_is_no_token_is_said_to_be_none(
    solblom: Solblom, issued: Path, data: bytes
) -> None:
    (issued / "strange.jws").write_bytes(data)
    for more in ([], ["--issuer", "dac.pub"]):
        done = solblom("permit", "show", "strange.jws", *more)
        assert done.exit_code == 4
        assert isinstance(done.exception, SystemExit | SolblomError)


def test_a_study_without_a_data_use_term_gets_no_permit_before_the_issuer_gives_one() -> None:
    study = study_document(study={"duo": []})
    with pytest.raises(ConfigurationError) as caught:
        permit_for(study, TERMS, issuer=ISSUER.name, jti="permit-0001", now=SECOND)
    assert "--duo" in caught.value.hint


def test_a_term_about_one_disease_is_not_issued_without_it() -> None:
    study = study_document(study={"duo": ["DUO:0000007"]})
    with pytest.raises(ConfigurationError) as caught:
        permit_for(study, TERMS, issuer=ISSUER.name, jti="permit-0001", now=SECOND)
    assert "--duo DUO:0000007=MONDO:" in caught.value.hint
    given = replace(TERMS, duo=("DUO:0000007=MONDO:0005148",))
    made = permit_for(study, given, issuer=ISSUER.name, jti="permit-0001", now=SECOND)
    check_covers(made, study, site="south", code="sha256:" + "0" * 64)


def test_a_permit_that_every_hospital_would_refuse_is_not_issued() -> None:
    with pytest.raises(ConfigurationError, match="names DUO:0000027, which --duo does not grant"):
        permit(duo=("DUO:0000042",))


def test_a_shown_permit_gives_its_moments_as_dates_too(solblom: Solblom, issued: Path) -> None:
    told = solblom("permit", "show", "permit.jws").stdout
    claims = json.loads(solblom("permit", "show", "permit.jws", "--json").stdout)["claims"]
    assert f"exp  {claims['exp']}  (20" in told
    assert told.count("Z)") == 5
