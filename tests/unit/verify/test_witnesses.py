"""Who must have cosigned the log beside an artefact, with which keys, and when."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unit.verify.verdicts import fails, failures
from unit.verify.witness_pins import pinned


def reason_of(verdict: Any, name: str) -> str:
    return {check.name: check.reason for check in verdict.checks}[name]


def another_site(builder: Any, number: int) -> None:
    """Name one more hospital in the manifest, which gave no update; it cosigns as the others do."""
    name, key = f"site-{number}", Ed25519PrivateKey.from_private_bytes(bytes([50 + number]) * 32)
    builder.site_keys[name] = builder.receipt_keys[name] = key


@pytest.mark.parametrize(("sites", "needed"), [(2, 2), (3, 2), (4, 3), (5, 4)])
def test_all_hospitals_but_one_must_have_cosigned_and_always_more_than_half(
    builder: Any, log: Any, tmp_path: Path, sites: int, needed: int
) -> None:
    for number in range(2, sites):
        another_site(builder, number)
    names = sorted(builder.site_keys)
    log.witnesses = {name: builder.site_keys[name] for name in names[:needed]}
    folder = log.write(tmp_path)
    verdict = builder.verify(folder)
    assert verdict.ok
    assert verdict.witnesses == tuple(names[:needed])
    assert all(name in reason_of(verdict, "witnesses") for name in names[needed:])
    del log.witnesses[names[needed - 1]]
    log.write_files(folder)
    fails(builder.verify(folder), "witnesses", "1 cosignatures too few: not by ")


def test_a_head_that_nobody_cosigned_is_refused(builder: Any, log: Any, tmp_path: Path) -> None:
    log.witnesses.clear()
    fails(
        builder.verify(log.write(tmp_path)), "witnesses", "2 cosignatures too few: not by innlandet"
    )


def test_a_pinned_witness_that_was_not_in_the_run_does_not_count_for_one_that_was(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    del log.witnesses["st-olavs"]
    log.witnesses["university"] = builder.attacker
    witnesses = [pinned(site, key) for site, key in builder.site_keys.items()]
    witnesses.append(pinned("university", builder.attacker))
    folder = log.write(tmp_path)
    builder.write_trust(tmp_path / "trust.json", witnesses=witnesses, quorum=2)
    verdict = builder.verify(folder)
    fails(verdict, "witnesses", "1 cosignatures too few: not by st-olavs")
    assert verdict.witnesses == ("innlandet",)


def test_receipts_by_keys_that_are_not_pinned_are_refused(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    folder = log.write(
        tmp_path
    )  # its manifest names a key for st-olavs that st-olavs does not have
    real = {**builder.site_keys, "st-olavs": builder.attacker}
    witnesses = [pinned(site, key) for site, key in real.items()]
    builder.write_trust(tmp_path / "trust.json", witnesses=witnesses, quorum=1)
    fails(builder.verify(folder), "receipts", "the key of 'st-olavs' in the manifest is not pinned")
    swapped = dict(zip(real, reversed(builder.site_keys.values()), strict=True))
    witnesses = [pinned(site, key) for site, key in swapped.items()]
    builder.write_trust(tmp_path / "trust.json", witnesses=witnesses)
    assert "is not pinned" in failures(builder.verify(folder))["receipts"]  # under another's name


def test_receipts_by_pinned_keys_pass_and_others_are_said_to_be_the_coordinators_word(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    folder = log.write(tmp_path)
    said = "Receipts: by the hospitals' keys in the manifest, which the coordinator wrote."
    assert said in builder.verify(folder).not_checked
    witnesses = [pinned(site, key) for site, key in builder.site_keys.items()]
    builder.write_trust(tmp_path / "trust.json", witnesses=witnesses)
    verdict = builder.verify(folder)
    assert verdict.ok
    assert said not in verdict.not_checked
    assert not any("not pinned" in line for line in verdict.not_checked)


def test_only_cosignatures_that_count_are_named(builder: Any, log: Any, tmp_path: Path) -> None:
    folder = log.write(tmp_path)
    witnesses = [pinned("innlandet", builder.site_keys["innlandet"])]
    builder.write_trust(tmp_path / "trust.json", witnesses=witnesses)
    verdict = builder.verify(folder)
    assert failures(verdict).keys() == {"receipts", "witnesses"}
    assert verdict.witnesses == ("innlandet",)
    assert reason_of(verdict, "witnesses") == "1 cosignatures too few: not by st-olavs"


def test_a_model_without_a_log_is_refused_where_witnesses_are_pinned(
    builder: Any, artefact: Path, tmp_path: Path
) -> None:
    witnesses = [pinned(site, key) for site, key in builder.site_keys.items()]
    builder.write_trust(tmp_path / "trust.json", witnesses=witnesses)
    fails(builder.verify(artefact), "log", "none, and the trust file names witnesses of one")


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
    why = failures(builder.verify(folder))
    assert why["witnesses"] == "2 cosignatures too few: not by innlandet, st-olavs"


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
