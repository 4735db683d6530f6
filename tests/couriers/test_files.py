"""Rounds by file, at the hospital: partial copies wait, strangers are named and left alone, nothing is done twice."""

import os
import stat
import sys
from pathlib import Path

import pytest

from lab import LabCoordinator, LabHospital, study_document
from solblom_client.link.exchange import PassReport, exchange_once
from solblom_client.link.process import pause_file
from solblom_client.policy import load_node_config
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.mailbox import list_mail, read_mail, write_mail
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.studies.study import StudyDocument


class FileHospital(LabHospital):
    """A laboratory hospital behind an inbox and an outbox."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder)
        self.inbox, self.outbox = folder / "in", folder / "out"
        self.inbox.mkdir()
        self.outbox.mkdir()
        extra = "".join(f"{name} = {value}\n" for name, value in settings.items())
        toml = folder / "node.toml"
        text = toml.read_text(encoding="utf-8")
        text = text.replace(
            "[coordinator]\n", f'[coordinator]\ninbox = "in"\noutbox = "out"\n{extra}'
        )
        toml.write_text(text, encoding="utf-8")
        self.config = load_node_config(folder)
        self.restart()

    def exchange(self, *, again: bool = False) -> PassReport:
        return exchange_once(self.config, self.vault, again=again)

    def replies(self) -> list[Result | Refusal]:
        found = [read_mail(file) for file in list_mail(self.outbox).mail]
        return [self.read(data) for data in found if data is not None]


@pytest.fixture
def behind_files(tmp_path: Path) -> FileHospital:
    return FileHospital(tmp_path / "north")


@pytest.fixture
def approved(behind_files: FileHospital) -> StudyDocument:
    study = study_document()
    behind_files.approve(study)
    return study


def test_a_paused_node_answers_no_order_by_file_until_it_goes_on(
    behind_files: FileHospital, approved: StudyDocument
) -> None:
    order = write_mail(behind_files.inbox, behind_files.order(approved))
    pause_file(behind_files.config).parent.mkdir(parents=True)
    pause_file(behind_files.config).touch()
    assert behind_files.exchange().left_alone == {order.path.name: "paused"}
    assert (behind_files.replies(), behind_files.charges()) == ([], 0)
    pause_file(behind_files.config).unlink()
    assert behind_files.exchange().answered == [order.path.name]


def test_an_order_file_gets_a_reply_file_that_names_it(
    behind_files: FileHospital, approved: StudyDocument
) -> None:
    order = write_mail(behind_files.inbox, behind_files.order(approved))
    report = behind_files.exchange()
    assert report.answered == [order.path.name]
    assert [file.answers for file in list_mail(behind_files.outbox).mail] == [order.digest]
    assert isinstance(behind_files.replies()[0], Result)


def test_a_second_pass_answers_nothing_again(
    behind_files: FileHospital, approved: StudyDocument
) -> None:
    write_mail(behind_files.inbox, behind_files.order(approved))
    behind_files.exchange()
    for reply in list_mail(behind_files.outbox).mail:
        reply.path.unlink()  # the carrier took it away
    report = behind_files.exchange()
    assert (len(report.answered), len(report.known)) == (0, 1)
    assert behind_files.replies() == []


def test_a_lost_reply_is_written_again_with_the_same_bytes_and_one_charge(
    behind_files: FileHospital, approved: StudyDocument
) -> None:
    write_mail(behind_files.inbox, behind_files.order(approved))
    behind_files.exchange()
    (first,) = behind_files.replies()
    for reply in list_mail(behind_files.outbox).mail:
        reply.path.unlink()
    behind_files.exchange(again=True)
    (second,) = behind_files.replies()
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert first.envelope == second.envelope
    assert behind_files.charges() == 1


def test_a_copy_that_has_not_arrived_whole_waits_and_is_answered_when_it_has(
    behind_files: FileHospital, approved: StudyDocument
) -> None:
    whole = behind_files.order(approved)
    order = write_mail(behind_files.inbox, whole)
    order.path.write_bytes(whole[:100])
    assert behind_files.exchange().waiting == [order.path.name]
    assert behind_files.charges() == 0
    order.path.write_bytes(whole)
    assert behind_files.exchange().answered == [order.path.name]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("readme.txt", b"hello", "not named like an order"),
        ("evil..order", b"x", "not named like an order"),
        ("A" * 64 + ".order", b"x", "not named like an order"),
    ],
)
def test_a_file_with_another_name_is_named_and_left_alone(
    behind_files: FileHospital, name: str, data: bytes, reason: str
) -> None:
    (behind_files.inbox / name).write_bytes(data)
    assert behind_files.exchange().left_alone == {name: reason}
    assert (behind_files.inbox / name).read_bytes() == data


def test_what_is_no_sealed_message_is_left_alone(behind_files: FileHospital) -> None:
    file = write_mail(behind_files.inbox, b"no sealed message at all")
    assert behind_files.exchange().left_alone == {file.path.name: "not a sealed message"}
    assert behind_files.replies() == []


def test_another_hospitals_order_is_left_alone(
    behind_files: FileHospital, approved: StudyDocument, tmp_path: Path
) -> None:
    other = LabHospital(tmp_path / "south", site="south")
    file = write_mail(behind_files.inbox, other.order(approved))
    assert behind_files.exchange().left_alone == {file.path.name: "sealed for another node"}
    other.vault.close()


def test_a_reply_in_the_inbox_is_left_alone(behind_files: FileHospital) -> None:
    file = write_mail(behind_files.inbox, b"anything", answers="0" * 64)
    assert behind_files.exchange().left_alone == {file.path.name: "a reply, not an order"}


def test_an_order_of_another_coordinator_is_refused_with_a_code(
    behind_files: FileHospital, approved: StudyDocument
) -> None:
    behind_files.coordinator, pinned = LabCoordinator(), behind_files.coordinator
    order = behind_files.order(approved)
    behind_files.coordinator = pinned
    write_mail(behind_files.inbox, order)
    behind_files.exchange()
    (reply,) = behind_files.replies()
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-201"


def test_a_link_in_the_inbox_is_never_followed(
    behind_files: FileHospital, approved: StudyDocument, tmp_path: Path
) -> None:
    real = write_mail(tmp_path, behind_files.order(approved))
    (behind_files.inbox / real.path.name).symlink_to(real.path)
    assert behind_files.exchange().waiting == [real.path.name]
    assert behind_files.charges() == 0


def test_a_pipe_in_the_inbox_hangs_nothing(behind_files: FileHospital) -> None:
    os.mkfifo(behind_files.inbox / f"{'0' * 64}.order")
    assert behind_files.exchange().waiting == [f"{'0' * 64}.order"]


def test_a_partial_write_is_never_seen_under_its_final_name(tmp_path: Path) -> None:
    file = write_mail(tmp_path, b"x" * 1000)
    assert [path.name for path in tmp_path.iterdir()] == [file.path.name]
    assert stat.S_ISREG(file.path.stat().st_mode)


def test_the_same_message_twice_is_one_file(tmp_path: Path) -> None:
    assert write_mail(tmp_path, b"same").path == write_mail(tmp_path, b"same").path
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_missing_is_named(behind_files: FileHospital) -> None:
    behind_files.inbox.rmdir()
    with pytest.raises(ConfigurationError, match="in is not a folder") as caught:
        behind_files.exchange()
    assert caught.value.code == "SB-601"


def test_a_flooded_inbox_is_refused_before_it_is_read(
    behind_files: FileHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solblom_protocol.messages.mailbox.MAX_FILES", 3)
    for number in range(4):
        (behind_files.inbox / f"{number}.txt").touch()
    with pytest.raises(ConfigurationError, match="holds 4 files") as caught:
        behind_files.exchange()
    assert caught.value.code == "SB-601"


def test_the_carriers_commands_run_around_each_pass(tmp_path: Path) -> None:
    script = "import os, pathlib, sys; pathlib.Path(os.environ['SOLBLOM_' + sys.argv[1]], 'called.txt').touch()"
    hospital = FileHospital(
        tmp_path / "carried",
        carrier_before=f'["{sys.executable}", "-c", "{script}", "INBOX"]',
        carrier_after=f'["{sys.executable}", "-c", "{script}", "OUTBOX"]',
    )
    hospital.exchange()
    assert (hospital.inbox / "called.txt").exists()
    assert (hospital.outbox / "called.txt").exists()
    hospital.vault.close()


@pytest.mark.parametrize(
    ("command", "said"),
    [('["/nonexistent/fetch"]', "could not be run"), ('["false"]', "status 1")],
)
def test_a_carrier_that_fails_is_named(tmp_path: Path, command: str, said: str) -> None:
    hospital = FileHospital(tmp_path / "failing", carrier_before=command)
    with pytest.raises(ConfigurationError, match=said) as caught:
        hospital.exchange()
    assert caught.value.code == "SB-602"
    hospital.vault.close()


def test_no_patient_is_named_in_what_the_exchange_writes(behind_files: FileHospital) -> None:
    for row in behind_files.rows:
        row["patient_id"] = f"SECRET-{row['patient_id']}"
    behind_files.write_rows(behind_files.rows)
    study = study_document()
    behind_files.approve(study)
    write_mail(behind_files.inbox, behind_files.order(study))
    behind_files.exchange()
    (file,) = list_mail(behind_files.outbox).mail
    (reply,) = behind_files.replies()
    assert isinstance(reply, Result)
    crossed = file.path.name.encode() + file.path.read_bytes() + reply.envelope + reply.update
    assert b"SECRET" not in crossed
