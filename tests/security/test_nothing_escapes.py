"""The vault answers whatever comes, and no word about patients leaves by the way of errors."""

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab import LabHospital, study_document
from security.flower_door import answer
from security.observer import PLANTED, Observer, forge
from solblom_client import answers as answers_module
from solblom_client import vault as vault_module
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.log.decision_log import log_place
from solblom_client.log.syslog import forward
from solblom_client.outbox.statement import (
    collect_statement,
    statement_html,
    statement_lines,
)
from solblom_client.state import VaultState
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.errors import REFUSAL_CODES
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.messages.seal import MAGIC, seal
from solblom_protocol.studies.study import StudyDocument

FEW = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=8,
)


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """The laboratory's study, approved by a hospital with a planted patient."""
    observer.hospital.rows[0]["patient_id"] = PLANTED
    observer.hospital.write_rows(observer.hospital.rows)
    document = study_document()
    observer.hospital.approve(document)
    return document


def explode(*_: object, **__: object) -> Any:
    raise RuntimeError(f"row of {PLANTED} in {PLANTED}.csv")


# --- Whatever bytes come


@FEW
@given(data=st.binary(max_size=300))
def test_any_bytes_get_a_refusal(observer: Observer, data: bytes) -> None:
    observer.assert_refused(data, "SB-202", named=False)
    observer.assert_refused(MAGIC + data, "SB-202", named=False)


@FEW
@given(data=st.binary(max_size=300))
def test_any_bytes_inside_a_sealed_message_get_a_refusal(observer: Observer, data: bytes) -> None:
    hospital = observer.hospital
    sealed = seal(data, kind="order", recipient=hospital.public.sealing)
    reply = hospital.ask(sealed)
    assert isinstance(reply, Refusal)
    assert reply.code in ("SB-201", "SB-202")


@FEW
@given(payload=JSON, array=st.binary(max_size=30))
def test_any_json_that_the_coordinator_signs_as_an_order_gets_a_refusal(
    observer: Observer, payload: Any, array: bytes
) -> None:
    hospital = observer.hospital
    sealed = forge(
        payload, array, key=hospital.coordinator.signing, recipient=hospital.public.sealing
    )
    observer.assert_refused(sealed, "SB-202", named=False)


# --- Whatever goes wrong inside


@pytest.mark.parametrize(
    "broken",
    [
        lambda patch: patch.setattr(TabularClassification, "read_units", explode),
        lambda patch: patch.setattr(TabularClassification, "losses", explode),
        lambda patch: patch.setattr(answers_module, "export_update", explode),
        lambda patch: patch.setattr(vault_module, "write_result", explode),
        lambda patch: patch.setattr(vault_module, "read_approval", explode),
    ],
    ids=["reading", "loss", "export", "signing", "approval"],
)
def test_the_text_of_an_exception_stays_inside(
    observer: Observer,
    study: StudyDocument,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[pytest.MonkeyPatch], None],
) -> None:
    broken(monkeypatch)
    assert observer.refusal(observer.hospital.order(study))["code"] in REFUSAL_CODES
    assert PLANTED in observer.log()[-1]["trace"]


def everything_that_crosses(hospital: LabHospital) -> dict[str, bytes]:
    """Return what a courier, a SIEM, a data protection officer and a witness get to see, as one text each."""
    frames: list[bytes] = []
    place = log_place(hospital.config)
    forward(place, frames.append)
    state = VaultState(hospital.config.state / STATE_FILE)
    page = collect_statement(hospital.config, state)
    state.close()
    found = {
        "syslog": b"\n".join(frames),
        "statement as data": json.dumps(page.to_json(), ensure_ascii=False).encode(),
        "checkpoints": b"".join(path.read_bytes() for path in place.checkpoints),
        "anchor": hospital.config.path(hospital.config.node.anchor or "").read_bytes(),
    }
    for lang in ("no", "en"):
        found[f"statement {lang}"] = "\n".join(statement_lines(page, lang)).encode()
        found[f"page {lang}"] = statement_html(page, lang).encode()
    return found


def test_a_planted_id_in_data_file_names_and_exceptions_is_in_nothing_that_crosses(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = observer.hospital
    assert isinstance(hospital.ask(hospital.order(study)), Result)
    with monkeypatch.context() as patch:
        patch.setattr(TabularClassification, "losses", explode)
        observer.refusal(hospital.order(study, round=2))
    with monkeypatch.context() as patch:
        patch.setattr(vault_module, "read_approval", explode)
        observer.refusal(hospital.order(study, round=2, attempt=2))
    (hospital.folder / "patients.csv").rename(hospital.folder / f"{PLANTED}.csv")
    observer.refusal(hospital.order(study, round=2, attempt=3))
    observer.refusal(PLANTED.encode())
    assert sum(PLANTED in json.dumps(line) for line in observer.log()) >= 2  # inside it is known
    for name, text in everything_that_crosses(hospital).items():
        assert text, name
        assert PLANTED.encode() not in text, name
        assert b"Traceback" not in text, name
        assert b".csv" not in text, name


def test_a_run_named_after_a_patient_gets_no_further_than_its_own_shape(
    observer: Observer, study: StudyDocument
) -> None:
    """A coordinator chooses the name of a run: it comes back to the hospital's own SIEM, and to nobody else."""
    hospital = observer.hospital
    for run in (f"{PLANTED}\n<13>1", PLANTED.upper(), "a" * 96):
        with pytest.raises(ValueError, match="run"):
            hospital.order(study, run=run)


@pytest.mark.parametrize("method", ["read_units", "losses"])
def test_a_task_that_crashes_over_the_rows_counts_as_a_refusal_that_depends_on_data(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(TabularClassification, method, explode)
    observer.refusal(observer.hospital.order(study))
    assert observer.strikes(study.digest) == 1


def test_an_honest_result_names_no_patient_and_no_file(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    reply = hospital.vault.process(hospital.order(study))
    assert isinstance(hospital.read(reply), Result)
    observer.assert_silent(observer.crossed(reply))


def test_the_name_of_a_data_file_stays_inside(observer: Observer, study: StudyDocument) -> None:
    observer.edit_config('path = "patients.csv"', f'path = "{PLANTED}.csv"')
    observer.assert_data_refused(observer.hospital.order(study))


@pytest.mark.parametrize("rows", [60, 3], ids=["good-data", "flawed-data"])
def test_a_site_log_that_cannot_be_written_is_a_refusal_too(
    observer: Observer, study: StudyDocument, rows: int
) -> None:
    hospital = observer.hospital
    hospital.write_rows(hospital.rows[:rows])
    shutil.rmtree(hospital.config.state / "log", ignore_errors=True)
    (hospital.config.state / "log").write_text("a file where the folder should be")
    assert isinstance(hospital.ask(hospital.order(study)), Refusal)


def test_a_strike_that_cannot_be_written_is_a_refusal_too(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    hospital.write_rows(hospital.rows[:3])
    drop = "CREATE TRIGGER full BEFORE INSERT ON strikes BEGIN SELECT RAISE(ABORT, 'full'); END"
    hospital.vault._state._connection.execute(drop)
    assert isinstance(hospital.ask(hospital.order(study)), Refusal)


# --- The ledger under the vault


def test_a_ledger_that_turned_to_garbage_refuses_before_a_row_is_read(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    assert isinstance(hospital.ask(hospital.order(study)), Result)
    path, reads = hospital.config.state / "vault.sqlite", len(observer.reads)
    path.write_bytes(b"garbage " * (path.stat().st_size // 8))
    assert observer.refusal(hospital.order(study, round=2))["code"] == "SB-214"
    assert len(observer.reads) == reads


@pytest.mark.parametrize(
    "trouble",
    [
        "PRAGMA query_only = 1",
        "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END",
    ],
    ids=["read-only", "no-reservation"],
)
def test_a_ledger_that_cannot_be_written_refuses_before_a_row_is_read(
    observer: Observer, study: StudyDocument, trouble: str
) -> None:
    observer.hospital.vault._state._connection.execute(trouble)
    observer.assert_refused(observer.hospital.order(study), "SB-214")


@pytest.mark.parametrize("name", ["vault.sqlite", "log/vault.jsonl"])
def test_files_with_results_and_traces_are_readable_by_the_node_alone(
    observer: Observer, study: StudyDocument, name: str
) -> None:
    observer.hospital.ask(observer.hospital.order(study))
    path = observer.hospital.config.state / name
    folder_is_closed = not stat.S_IMODE(observer.hospital.config.state.stat().st_mode) & 0o077
    assert folder_is_closed or not stat.S_IMODE(path.stat().st_mode) & 0o077


# --- Flower's door


def test_the_door_passes_any_bytes_and_brings_back_a_refusal(
    hospital: LabHospital,
) -> None:
    reply = answer(hospital, b"junk")
    sealed = reply.content.array_records["solblom"]["sealed"].data
    assert isinstance(hospital.read(sealed), Refusal)


def test_a_vault_that_cannot_be_opened_tells_flower_no_path(tmp_path: Path) -> None:
    hospital = LabHospital(tmp_path / PLANTED)
    (hospital.folder / "coordinator.pub").unlink()
    text = ""
    try:
        answer(hospital, b"junk")
    except Exception as error:  # what Flower would send to the server
        text = f"{type(error)}:<'{error}'>"
    assert PLANTED not in text
