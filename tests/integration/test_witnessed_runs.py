"""Claims about runs that hospitals witness: every model ends with their cosignatures, whatever dies on the way."""

import base64
import json
from pathlib import Path

import pytest

from integration.demo_run import Solblom
from integration.federation import SITES, Federation, now
from solblom_client import witness
from solblom_protocol.logs.cosignature import read_cosigned
from solblom_protocol.logs.merkle import leaf_hash
from solblom_protocol.logs.transparency import Head, verify_inclusion
from solblom_server.coordinator import Coordinator
from solblom_server.log.report import check_log
from solblom_server.log.transparency_log import TransparencyLog
from solblom_server.rounds.runs import FinishedRun, cosign_run
from solblom_verify.artefact import verify_artefact
from solblom_verify.canonical import canonical_json
from solblom_verify.trust import load_trust


def cosigners(federation: Federation, finished: FinishedRun) -> set[str]:
    """The hospitals whose cosignature stands, and holds, in a model's checkpoint."""
    coordinator = Coordinator.open(federation.home)
    log = coordinator.log()
    keys = {node.name: node.signing for node in coordinator.nodes()}
    note = (finished.path / "log" / "checkpoint.txt").read_text("utf-8")
    return set(read_cosigned(note, log.origin, coordinator.signing.public_key(), keys).cosignatures)


def kinds(federation: Federation) -> list[str]:
    log = Coordinator.open(federation.home).log()
    found = [str(json.loads(entry)["kind"]) for entry in log.entries()]
    log.close()
    return found


def witnesses(federation: Federation, finished: FinishedRun) -> set[str]:
    """Whose cosignatures the stand-alone verifier counts."""
    trust = load_trust(federation.home / "trust.json")
    verdict = verify_artefact(finished.path, trust, now=now())
    assert verdict.ok, verdict.checks
    return set(verdict.witnesses)


def test_a_run_ends_with_the_cosignatures_of_all_its_hospitals(
    federation: Federation, finished: FinishedRun
) -> None:
    assert cosigners(federation, finished) == set(SITES)
    assert witnesses(federation, finished) == set(SITES)


def test_no_entry_of_the_log_is_dated_before_the_one_above_it(
    federation: Federation, finished: FinishedRun
) -> None:
    log = Coordinator.open(federation.home).log()
    times = [str(json.loads(entry)["time"]) for entry in log.entries()]
    log.close()
    assert finished.path.is_dir()
    assert times == sorted(times)


def test_the_log_has_what_the_run_did_in_its_order(
    federation: Federation, finished: FinishedRun
) -> None:
    assert kinds(federation)[:14] == [
        "run-opened",
        *(("receipt",) * 3 + ("round-closed",)) * 3,
        "model",
    ]
    log = Coordinator.open(federation.home).log()
    assert check_log(log, {}).problems == ()
    log.close()


def test_the_inclusion_file_proves_the_models_entry(finished: FinishedRun) -> None:
    value = json.loads((finished.path / "log" / "inclusion.json").read_bytes())
    (item,) = value["entries"]
    assert item["entry"]["artefact"] == finished.digest
    note = (finished.path / "log" / "checkpoint.txt").read_text("utf-8").splitlines()

    head = Head(int(note[1]), base64.b64decode(note[2]))
    assert head.size == value["size"]
    proof = [base64.b64decode(part) for part in item["proof"]]
    leaf = leaf_hash(canonical_json(item["entry"]))
    assert verify_inclusion(leaf, item["index"], head, proof)


def test_the_log_can_be_shown_checked_and_exported(
    federation: Federation, finished: FinishedRun, solblom: Solblom, tmp_path: Path
) -> None:
    home = str(federation.home)
    shown = solblom("audit", "log", "--home", home, "--json", "--export", "log.json")
    assert shown.exit_code == 0, shown.output
    report = json.loads(shown.stdout)
    assert (report["ok"], report["schema"]) == (True, "solblom.audit.log/1")
    assert set(report["heads"][0]["cosigned"]) == set(SITES)
    verdict = verify_artefact(
        finished.path,
        load_trust(federation.home / "trust.json"),
        now=now(),
        fresh_log=tmp_path / "log.json",
    )
    assert all(check.ok for check in verdict.checks), verdict


def test_a_hospital_that_does_not_cosign_is_named_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solblom: Solblom
) -> None:
    federation = Federation(tmp_path / "home")
    real = witness.cosign

    def refuses(note: str, name: str, *args: object, **kwargs: object) -> str:
        if name == "va":
            raise OSError("va cannot sign")
        return real(note, name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(witness, "cosign", refuses)
    finished = federation.start()
    assert cosigners(federation, finished) == {"cleveland", "hungarian"}
    assert witnesses(federation, finished) == {"cleveland", "hungarian"}  # all but one is enough
    missing = solblom("coordinator", "cosign", finished.run, "--home", str(federation.home))
    assert missing.exit_code == 6, missing.output
    assert "no cosignature of va" in missing.stderr
    monkeypatch.setattr(witness, "cosign", real)
    assert cosign_run(federation.home, finished.run) == (finished.ref, [])
    assert cosigners(federation, finished) == set(SITES)
    assert witnesses(federation, finished) == set(SITES)


@pytest.mark.parametrize(
    ("dies", "at"), [("append", (3, 9)), ("show", (3, 9)), ("add_cosignature", (2,))]
)
def test_a_crash_in_the_log_loses_and_doubles_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str, at: tuple[int, ...]
) -> None:
    """The process dies at these calls, and the run is resumed each time."""
    federation = Federation(tmp_path / "home")
    real, calls = getattr(TransparencyLog, dies), [0]

    def sometimes(self: TransparencyLog, *args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] in at:
            raise RuntimeError("power cut")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(TransparencyLog, dies, sometimes)
    run, finished = "", None
    for _ in range(5):
        try:
            finished = federation.resume(run) if run else federation.start()
            break
        except RuntimeError:
            database = Coordinator.open(federation.home).database()
            run = database.runs()[-1].id
            database.close()
    assert finished is not None
    assert calls[0] > at[-1]
    found = kinds(federation)
    assert found.count("run-opened") == found.count("model") == 1
    assert (found.count("receipt"), found.count("round-closed")) == (9, 3)
    assert cosigners(federation, finished) == set(SITES)
