"""The coordinator's side: who is missing is named, the round goes on when they are back, and nothing is asked twice."""

from pathlib import Path

import pytest

from integration.federation import SITES, progress
from integration.shared_noise import SharedFederation
from solblom_protocol.errors import RunError
from solblom_server.coordinator import Coordinator
from solblom_server.rounds.secure_sum import check_roster


def run_of(federation: SharedFederation) -> str:
    database = Coordinator.open(federation.home).database()
    try:
        return database.runs()[-1].id
    finally:
        database.close()


def test_a_hospital_missing_in_the_middle_is_named_and_nobody_pays_twice(tmp_path: Path) -> None:
    federation = SharedFederation(tmp_path / "home", releases=False)
    consent = federation.home / "sites" / "va" / "consent.csv"
    text = consent.read_text(encoding="utf-8")

    def after(number: int, rounds: int, words: str) -> None:
        if number == 1:
            consent.unlink()  # from now on va refuses

    with progress(after), pytest.raises(RunError, match="va refused") as caught:
        federation.start()
    assert caught.value.code == "SB-507"
    assert caught.value.message.startswith("Round 2: 2 of 3 hospitals")
    assert federation.charges()["cleveland"] == [(1, "spent"), (2, "spent")]
    consent.write_text(text, encoding="utf-8")
    federation.resume(run_of(federation))
    for site in SITES:
        assert [number for number, _ in federation.charges()[site]] == [1, 2, 3]


def test_a_run_does_not_start_without_all_hospitals_of_its_roster(tmp_path: Path) -> None:
    federation = SharedFederation(tmp_path / "home", releases=False)
    (federation.home / "nodes" / "va.pub").unlink()
    with pytest.raises(RunError, match="missing, or enrolled with another key: va") as caught:
        federation.start()
    assert caught.value.code == "SB-501"


def test_a_hospital_that_was_enrolled_anew_is_another_one(tmp_path: Path) -> None:
    federation = SharedFederation(tmp_path / "home", approving=[], releases=False)
    nodes = {n.name: n.key_id for n in Coordinator.open(federation.home).nodes()}
    check_roster(federation.document, nodes)
    with pytest.raises(RunError, match="hungarian"):
        check_roster(federation.document, nodes | {"hungarian": "0" * 64})
