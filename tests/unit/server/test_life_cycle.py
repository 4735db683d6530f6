"""A steward decides about models, in order, for good; nobody else does, and everybody is told."""

import datetime as dt
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from registry_lab import NOW, Registry
from solblom_models.life_cycle import require_released
from solblom_models.references import find_artefact
from solblom_models.trusted import pinned_trust, verified_model
from solblom_protocol.errors import ConfigurationError, IntegrityError, RefusedError
from solblom_protocol.keys.key_files import private_pem
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.withdrawal_notice import NoticedRun, WithdrawalNotice, write_notice
from solblom_server import trust_file
from solblom_server.registry import life_cycle
from solblom_verify.canonical import canonical_json, parse_canonical


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def history(registry: Registry, ref: str) -> list[str]:
    shown = json.loads(registry.model("status", ref, "--json").stdout)
    return [shown["status"], *(entry["status"] for entry in shown["history"])]


def released(registry: Registry) -> Path:
    folder = registry.add()
    for status in ("validated", "released"):
        registry.decide("promote", "heart-disease", "--to", status)
        registry.cosign(folder)
    return folder


def test_a_model_goes_from_candidate_to_validated_released_and_withdrawn(
    registry: Registry,
) -> None:
    folder = registry.add()
    assert history(registry, "heart-disease") == ["candidate"]
    for status in ("validated", "released"):
        result = registry.decide("promote", "heart-disease", "--to", status)
        assert result.exit_code == 0, result.output
        registry.cosign(folder)
        verdict = registry.verify(folder)
        assert (verdict.ok, verdict.status) == (True, status)
    assert len(verdict.signers) == 2  # the steward signed the model too
    assert registry.decide("withdraw", "heart-disease").exit_code == 0
    verdict = registry.verify(folder)
    assert "status" in [check.name for check in verdict.checks if not check.ok]
    steps = ["withdrawn", "validated", "released", "withdrawn"]
    assert history(registry, "heart-disease@v1") == steps


def test_a_promotion_counts_for_others_only_once_hospitals_cosigned_it(registry: Registry) -> None:
    folder = registry.add()
    result = registry.decide("promote", "heart-disease", "--to", "validated", "--json")
    assert json.loads(result.stdout)["missing_cosignatures"] == ["innlandet", "st-olavs"]
    assert "solblom coordinator cosign run-1" in result.stderr
    failed = [check.name for check in registry.verify(folder).checks if not check.ok]
    assert failed == ["witnesses"]
    registry.cosign(folder)
    assert registry.verify(folder).ok


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([], "released"),
        (["validated"], "validated"),
        (["validated", "released"], "validated"),
        (["withdrawn"], "validated"),
        (["withdrawn"], "withdrawn"),
        (["validated", "released", "withdrawn"], "released"),
    ],
)
def test_a_step_out_of_order_is_refused(registry: Registry, steps: list[str], wrong: str) -> None:
    folder = registry.add()

    def take(status: str) -> int:
        if status == "withdrawn":
            return registry.decide("withdraw", "heart-disease@v1").exit_code
        return registry.decide("promote", "heart-disease@v1", "--to", status).exit_code

    for step in steps:
        assert take(step) == 0
        registry.cosign(folder)
    before = history(registry, "heart-disease@v1")
    # What was withdrawn no longer verifies, which a promotion checks first.
    assert take(wrong) == (5 if "withdrawn" in steps and wrong != "withdrawn" else 4)
    assert history(registry, "heart-disease@v1") == before


@pytest.mark.parametrize("verb", [("promote", "--to", "validated"), ("withdraw",)])
def test_only_a_key_that_the_trust_file_calls_a_stewards_decides(
    registry: Registry, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    registry.add()
    stranger = tmp_path / "stranger.key"
    stranger.write_bytes(private_pem(Ed25519PrivateKey.generate()))
    for key in (stranger, registry.home / "keys/coordinator-signing.key"):
        result = registry.decide(verb[0], "heart-disease", *verb[1:], key=key)
        assert result.exit_code == 4
        assert "SB-423" in result.stderr
    assert history(registry, "heart-disease") == ["candidate"]


def test_a_stewards_key_decides_only_within_its_dates(registry: Registry) -> None:
    registry.add()
    words = ["trust", "add-key", str(registry.steward_public), "--name", "Kari"]
    assert registry.operate(*words, "--until", "2026-01-01").exit_code == 0
    result = registry.decide("promote", "heart-disease", "--to", "validated")
    assert (result.exit_code, "SB-423" in result.stderr) == (4, True)


def test_a_model_that_was_changed_is_not_promoted(registry: Registry) -> None:
    folder = registry.add()
    (folder / "README.md").write_text("# A better model\n")
    result = registry.decide("promote", "heart-disease", "--to", "validated")
    assert result.exit_code == 5
    assert "changed file: README.md" in result.stderr
    assert history(registry, "heart-disease") == ["candidate"]


def test_a_model_that_was_changed_can_be_withdrawn(registry: Registry) -> None:
    folder = registry.add()
    (folder / "README.md").write_text("# A better model\n")
    assert registry.decide("withdraw", "heart-disease").exit_code == 0
    assert history(registry, "heart-disease@v1") == ["withdrawn", "withdrawn"]


def _retitled(manifest: bytes) -> bytes:
    read: Any = parse_canonical(manifest)
    return canonical_json({**read, "title": "x"})


@pytest.mark.parametrize(
    ("change", "is_told"),
    [(_retitled, True), (lambda _: b'{"title":"x"}', False), (lambda _: b"", False), (None, False)],
)
def test_a_model_whose_manifest_was_changed_or_is_gone_can_be_withdrawn(
    registry: Registry, change: Callable[[bytes], bytes] | None, is_told: bool
) -> None:
    folder = released(registry)
    file = folder / "manifest.json"
    whole = file.read_bytes()
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(whole))
    result = registry.decide("withdraw", "heart-disease@v1")
    assert result.exit_code == 0, result.output
    assert ("Its folder could not be told" in result.stderr) != is_told
    steps = ["withdrawn", "validated", "released", "withdrawn"]
    assert history(registry, "heart-disease@v1") == steps
    file.write_bytes(whole)
    with pytest.raises(RefusedError, match="was withdrawn"):
        verified_model("heart-disease@v1", registry.home, None)


def test_one_changed_manifest_keeps_no_other_model_from_being_marked_affected(
    registry: Registry,
) -> None:
    folders = [registry.add(version) for version in (1, 2)]
    (folders[0] / "manifest.json").write_bytes(b"")
    marked = life_cycle.mark_affected(registry.coordinator, {"run-1", "run-2"}, now=NOW)
    assert marked == ["heart-disease@v1", "heart-disease@v2"]
    assert history(registry, "heart-disease@v1") == ["candidate", "affected"]


def test_a_model_outside_the_registry_is_not_decided_about(
    registry: Registry, tmp_path: Path
) -> None:
    folder = registry.add()
    folder = folder.rename(tmp_path / "heart-disease-v1")
    result = registry.decide("withdraw", str(folder))
    assert (result.exit_code, "SB-503" in result.stderr) == (3, True)


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 501, "\x1b[2J"])
def test_a_reason_is_one_line_of_text(registry: Registry, reason: str) -> None:
    registry.add()
    result = registry.decide("withdraw", "heart-disease", "--reason", reason)
    assert (result.exit_code, "SB-103" in result.stderr) == (3, True)


def test_promoting_to_anything_else_is_wrong_usage(registry: Registry) -> None:
    registry.add()
    result = registry.decide("promote", "heart-disease", "--to", "withdrawn")
    assert (result.exit_code, "SB-103" in result.stderr) == (3, True)


def test_a_model_that_waits_for_its_steward_verifies_once_promoted(registry: Registry) -> None:
    folder = registry.add()
    words = ["trust", "add-key", str(registry.steward_public), "--name", "Kari", "--threshold", "2"]
    assert registry.operate(*words).exit_code == 0
    first = next(check for check in registry.verify(folder).checks if not check.ok)
    assert (first.name, first.reason) == ("envelope", "1 trusted signatures, and 2 are needed")
    assert registry.decide("promote", "heart-disease", "--to", "validated").exit_code == 0
    registry.cosign(folder)
    assert registry.verify(folder).ok


def test_a_promotion_that_a_crash_interrupted_is_finished_by_the_same_command(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = registry.add()

    def crash(path: Path, data: bytes, *, mode: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(life_cycle, "write_whole", crash)
        assert registry.decide("promote", "heart-disease", "--to", "validated").exit_code == 130
    assert registry.verify(folder).status == "candidate"  # its files are as they were
    assert registry.decide("promote", "heart-disease", "--to", "validated").exit_code == 0
    registry.cosign(folder)
    verdict = registry.verify(folder)
    assert (verdict.ok, verdict.status, len(verdict.signers)) == (True, "validated", 2)
    assert history(registry, "heart-disease") == ["validated", "validated"]


@pytest.mark.parametrize("crash", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_withdrawal_that_was_interrupted_counts_at_once_and_is_finished_by_the_same_command(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, crash: BaseException
) -> None:
    folder = released(registry)

    def interrupt(*_: object) -> None:
        raise crash

    with monkeypatch.context() as patch:
        patch.setattr(life_cycle, "write_log_files", interrupt)
        registry.decide("withdraw", "heart-disease@v1")
    assert registry.verify(folder).status == "released"  # the folder alone does not know
    with pytest.raises(RefusedError, match="was withdrawn") as caught:
        verified_model("heart-disease@v1", registry.home, None)
    assert caught.value.code == "SB-420"
    with pytest.raises(RefusedError, match="Every version"):
        find_artefact("heart-disease", registry.home)
    with pytest.raises(RefusedError, match="is withdrawn, not released"):
        require_released(verified_model(str(folder), None, None, withdrawn_too=True)[1])
    assert registry.decide("withdraw", "heart-disease@v1").exit_code == 0
    assert not registry.verify(folder).ok
    steps = ["withdrawn", "validated", "released", "withdrawn"]
    assert history(registry, "heart-disease@v1") == steps
    assert "SB-422" in registry.decide("withdraw", "heart-disease@v1").stderr


@pytest.mark.parametrize("first", ["promote", "withdraw"])
def test_two_stewards_who_decide_at_once_decide_one_after_the_other(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"t" * 32)
    trust_file.add_key(registry.home, other.public_key(), name="Ola", role="steward")
    folder = registry.add()
    check, refused, threads = life_cycle._check_step, list[str](), list[threading.Thread]()

    def promote_as_ola() -> None:
        try:
            life_cycle.promote(
                registry.coordinator,
                folder,
                "validated",
                "mine",
                other,
                now=dt.datetime.now(dt.UTC),
            )
        except (RefusedError, IntegrityError) as error:
            refused.append(error.code)

    def meanwhile(*words: Any) -> None:
        check(*words)
        if not threads:  # between what the first steward read and what she writes
            threads.append(threading.Thread(target=promote_as_ola))
            threads[0].start()
            threads[0].join(1.0)
            assert threads[0].is_alive()

    monkeypatch.setattr(life_cycle, "_check_step", meanwhile)
    to = ["--to", "validated"] if first == "promote" else []
    assert registry.decide(first, "heart-disease@v1", *to).exit_code == 0
    threads[0].join()
    assert len(refused) == 1
    steps = {"promote": "validated", "withdraw": "withdrawn"}
    assert history(registry, "heart-disease@v1") == [steps[first], steps[first]]
    registry.cosign(folder)
    assert registry.verify(folder).ok == (first == "promote")


# Which version a name means


def test_a_name_means_the_newest_released_version_then_the_newest_and_never_a_withdrawn_one(
    registry: Registry,
) -> None:
    folders = {version: registry.add(version) for version in (1, 2, 3)}

    def meant() -> str:
        return find_artefact("heart-disease", registry.home).name

    assert meant() == "heart-disease-v3"
    for status in ("validated", "released"):
        registry.decide("promote", "heart-disease@v1", "--to", status)
        registry.cosign(folders[1])
    assert meant() == "heart-disease-v1"
    registry.decide("withdraw", "heart-disease@v1")
    assert meant() == "heart-disease-v3"
    registry.decide("withdraw", "heart-disease@v3")
    assert meant() == "heart-disease-v2"
    registry.decide("withdraw", "heart-disease@v2")
    with pytest.raises(
        RefusedError, match="Every version of heart-disease was withdrawn"
    ) as caught:
        meant()
    assert caught.value.code == "SB-420"
    assert find_artefact("heart-disease@v2", registry.home) == folders[2]


def test_the_list_shows_each_versions_status(registry: Registry) -> None:
    registry.add(1)
    registry.add(2)
    registry.decide("withdraw", "heart-disease@v2")
    shown = json.loads(registry.model("list", "--json").stdout)["models"]
    assert [model["status"] for model in shown] == ["candidate", "withdrawn"]


# Use


def test_a_withdrawn_model_is_not_used_unless_one_insists(registry: Registry) -> None:
    folder = registry.add()
    registry.decide("withdraw", "heart-disease")
    with pytest.raises(RefusedError, match="was withdrawn") as caught:
        verified_model("heart-disease@v1", registry.home, None)
    assert caught.value.code == "SB-420"
    registry.cosign(folder)
    found, verdict = verified_model("heart-disease@v1", registry.home, None, withdrawn_too=True)
    assert (found, verdict.status) == (folder, "withdrawn")
    (folder / "README.md").write_text("changed")
    with pytest.raises(IntegrityError, match="changed file"):
        verified_model("heart-disease@v1", registry.home, None, withdrawn_too=True)


def test_clinical_use_needs_a_released_model(registry: Registry) -> None:
    folder = registry.add()
    for status in ("validated", "released"):
        _, verdict = verified_model("heart-disease", registry.home, None)
        with pytest.raises(RefusedError) as caught:
            require_released(verdict)
        assert caught.value.code == "SB-421"
        registry.decide("promote", "heart-disease", "--to", status)
        registry.cosign(folder)
    require_released(verified_model("heart-disease", registry.home, None)[1])


def test_a_trust_file_older_than_the_homes_own_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    folder = registry.add()
    older = tmp_path / "older.json"
    older.write_bytes((registry.home / "trust.json").read_bytes())
    assert pinned_trust(folder, older)[0] == older
    words = ["trust", "add-key", str(registry.steward_public), "--name", "Kari Nordmann"]
    assert registry.operate(*words).exit_code == 0
    with pytest.raises(ConfigurationError) as caught:
        pinned_trust(folder, older)
    assert caught.value.code == "SB-424"


# A withdrawal of consent


def test_affected_versions_are_marked_once_and_stay_what_they_were(registry: Registry) -> None:
    folder = registry.add()
    registry.add(2)
    for _ in range(2):
        assert life_cycle.mark_affected(registry.coordinator, {"run-1"}, now=NOW) == [
            "heart-disease@v1"
        ]
    assert history(registry, "heart-disease@v1") == ["candidate", "affected"]
    assert history(registry, "heart-disease@v2") == ["candidate"]
    assert registry.verify(folder).ok  # a remark does not need new cosignatures
    registry.cosign(folder)
    reasons = {check.name: check.reason for check in registry.verify(folder).checks}
    assert reasons["status"] == "candidate, affected by a withdrawal of consent"


def test_no_hospital_is_named_where_a_model_is_affected(registry: Registry) -> None:
    registry.add()
    life_cycle.mark_affected(registry.coordinator, {"run-1"}, now=NOW)
    shown = json.loads(registry.model("status", "heart-disease", "--json").stdout)["history"]
    assert all(site not in json.dumps(shown) for site in registry.sites)


def test_a_hospitals_notice_marks_the_models_of_its_affected_runs(
    registry: Registry, tmp_path: Path
) -> None:
    registry.add(1)
    registry.add(2)
    keys = (Ed25519PrivateKey.generate(), X25519PrivateKey.generate())
    north = PublicKeys("north", keys[0].public_key(), keys[1].public_key())
    registry.coordinator.enrol(north)
    said = WithdrawalNotice(
        schema="solblom.withdrawal-notice/1",
        site="north",
        node=north.key_id,
        issued="2026-11-22T00:00:00Z",
        runs=[
            NoticedRun(study="sha256:" + "a" * 64, run=f"run-{version}", affected=affected)
            for version, affected in ((1, 0), (2, 1))
        ],
        padding="",
    )
    sealed = write_notice(said, key=keys[0], recipient=registry.coordinator.public.sealing)
    (tmp_path / "notice").write_bytes(sealed)
    result = registry.operate("notice", str(tmp_path / "notice"), "--site", "north", "--json")
    assert json.loads(result.stdout)["models"] == ["heart-disease@v2"]
    assert history(registry, "heart-disease@v2") == ["candidate", "affected"]
    assert history(registry, "heart-disease@v1") == ["candidate"]
