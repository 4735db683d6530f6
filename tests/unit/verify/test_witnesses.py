"""Who must have cosigned the log beside an artefact, with which keys, and when."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_verify.envelope import key_id, public_key_to_pem
from unit.verify.verdicts import fails


def pinned(name: str, key: Ed25519PrivateKey) -> dict[str, str]:
    public = key.public_key()
    return {"keyid": key_id(public), "name": name, "public_key": public_key_to_pem(public)}


def test_one_hospital_of_the_run_may_be_missing_and_is_named(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    del log.witnesses["innlandet"]
    verdict = builder.verify(log.write(tmp_path))
    assert verdict.ok
    assert "not by innlandet" in {c.name: c.reason for c in verdict.checks}["witnesses"]


def test_a_head_that_nobody_cosigned_is_refused(builder: Any, log: Any, tmp_path: Path) -> None:
    log.witnesses.clear()
    fails(
        builder.verify(log.write(tmp_path)), "witnesses", "1 cosignatures too few: not by innlandet"
    )


def test_pinned_witnesses_count_instead_of_the_manifests(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    folder = log.write(tmp_path)
    trust = tmp_path / "trust.json"
    outside = builder.attacker.public_key()
    witness = {
        "keyid": key_id(outside),
        "name": "university",
        "public_key": public_key_to_pem(outside),
    }
    builder.write_trust(trust, witnesses=[witness], quorum=1)
    fails(builder.verify(folder), "witnesses", "too few: not by university")
    log.witnesses["university"] = builder.attacker
    log.write_files(folder)
    verdict = builder.verify(folder)
    assert verdict.ok
    assert not any("not pinned" in line for line in verdict.not_checked)


def test_a_pinned_key_stands_before_the_manifests_of_the_same_name(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    folder = log.write(tmp_path)
    other = builder.attacker.public_key()
    pem = public_key_to_pem(other)
    witness = {"keyid": key_id(other), "name": "st-olavs", "public_key": pem}
    builder.write_trust(tmp_path / "trust.json", witnesses=[witness], quorum=1)
    fails(builder.verify(folder), "witnesses", "1 cosignatures too few: not by st-olavs")


def test_a_cosignature_before_the_signing_is_refused(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    log.cosigned -= 3600
    fails(builder.verify(log.write(tmp_path)), "witnesses", "cosigned before")


def test_a_hospital_that_replaced_its_key_counts_with_the_old_one_on_old_models(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    folder = log.write(tmp_path)
    old = [pinned(site, key) for site, key in builder.site_keys.items()]
    new = pinned("st-olavs", builder.attacker)
    builder.write_trust(tmp_path / "trust.json", witnesses=[*old, new], quorum=2)
    assert builder.verify(folder).ok


def test_hospitals_that_were_not_in_the_run_need_not_have_cosigned(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    folder = log.write(tmp_path)
    everybody = {**builder.site_keys, "nord": builder.attacker, "vest": builder.steward}
    witnesses = [pinned(site, key) for site, key in everybody.items()]
    builder.write_trust(tmp_path / "trust.json", witnesses=witnesses)
    reasons = {check.name: check.reason for check in builder.verify(folder).checks}
    assert reasons["witnesses"] == "cosigned by innlandet, st-olavs"


def test_hospitals_that_a_coordinator_made_up_do_not_make_a_quorum(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    folder = log.write(tmp_path)  # its manifest names two hospitals, and the auditor knows neither
    builder.write_trust(tmp_path / "trust.json", witnesses=[pinned("real", builder.attacker)])
    fails(builder.verify(folder), "witnesses", "1 cosignatures too few: not by real")


def test_a_cosignature_older_than_a_decision_is_refused(
    builder: Any, log: Any, logged: Path
) -> None:
    log.add_status("released", time="2026-11-22T22:00:00Z")
    log.write_files(logged)
    fails(builder.verify(logged), "witnesses", "cosigned before what it vouches for was signed")


def test_a_decision_is_logged_with_its_own_time(builder: Any, log: Any, logged: Path) -> None:
    log.add_status("released")
    log.entries[-1]["time"] = "2026-11-22T21:00:31Z"
    log.write_files(logged)
    fails(builder.verify(logged), "log", "released was said at another time than logged")
