"""The coordinator reads a hospital's notice: of that hospital, signed by it, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from typer.testing import CliRunner

from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.withdrawal_notice import NoticedRun, WithdrawalNotice, write_notice
from solblom_server.commands.coordinator import app
from solblom_server.coordinator import Coordinator, create_coordinator

STUDY = "sha256:" + "a" * 64


class Place:
    """A coordinator with one enrolled hospital."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "home"
        create_coordinator(self.folder, name="lab", entropy=_entropy)
        self.coordinator = Coordinator.open(self.folder)
        self.key = Ed25519PrivateKey.generate()
        sealing = X25519PrivateKey.generate().public_key()
        self.north = PublicKeys("north", self.key.public_key(), sealing)
        self.coordinator.enrol(self.north)

    def write(self, *affected: int, site: str = "north", **options: Any) -> Path:
        notice = WithdrawalNotice(
            schema="solblom.withdrawal-notice/1",
            site=site,
            node=self.north.key_id,
            issued="2026-11-22T00:00:00Z",
            runs=[
                NoticedRun(study=STUDY, run=f"run-{number}", affected=1 if value else 0)
                for number, value in enumerate(affected)
            ],
            padding="",
        )
        key = options.get("key", self.key)
        sealed = write_notice(notice, key=key, recipient=self.coordinator.public.sealing)
        file = self.folder / "notice"
        file.write_bytes(sealed)
        return file

    def read(self, file: Path, *, site: str = "north") -> Any:
        words = ["notice", str(file), "--site", site, "--home", str(self.folder), "--json"]
        return CliRunner().invoke(app, words)


def _entropy(label: str) -> bytes:
    return label.encode().ljust(32, b"0")[:32]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_notice_lists_runs_as_affected_or_not(place: Place) -> None:
    done = place.read(place.write(0, 1))
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["schema"] == "solblom.coordinator.notice/1"
    assert [(run["run"], run["affected"]) for run in data["runs"]] == [
        ("run-0", False),
        ("run-1", True),
    ]


@pytest.mark.parametrize("runs", [(), (0,), (0, 0, 0), (0,) * 40, (0,) * 400])
def test_yes_and_no_take_the_same_room(place: Place, runs: tuple[int, ...]) -> None:
    sizes = {len(place.write(*made).read_bytes()) for made in (runs, (1,) * len(runs))}
    assert len(sizes) == 1


def test_one_run_takes_the_room_of_two(place: Place) -> None:
    assert len(place.write(1).read_bytes()) == len(place.write(1, 0).read_bytes())


def test_a_notice_signed_by_somebody_else_is_refused(place: Place) -> None:
    done = place.read(place.write(1, key=Ed25519PrivateKey.generate()))
    assert done.exit_code == 5


def test_a_notice_of_another_site_is_refused(place: Place) -> None:
    assert place.read(place.write(1, site="south")).exit_code == 5


def test_a_hospital_that_is_not_enrolled_is_refused(place: Place) -> None:
    assert place.read(place.write(1), site="west").exit_code == 5


@pytest.mark.parametrize("data", [b"", b"SBSEAL2\n", b"x" * 5000])
def test_any_other_file_is_refused(place: Place, data: bytes) -> None:
    file = place.write(1)
    file.write_bytes(data)
    assert place.read(file).exit_code == 5
