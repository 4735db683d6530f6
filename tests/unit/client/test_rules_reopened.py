"""A vault that is opened anew: never half by one node.toml and half by another, and of one node only."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab import LabCoordinator, LabHospital, study_document
from solblom_client import app as client_app
from solblom_client import vault as vault_module
from solblom_client.cli import app
from solblom_client.policy import load_node_config
from solblom_client.rules_in_force import RulesInForce
from solblom_protocol.messages.mailbox import list_mail, write_mail
from solblom_protocol.messages.result import Refusal, Result

STUDY = study_document()


@pytest.fixture
def hospital(tmp_path: Path) -> LabHospital:
    made = LabHospital(tmp_path / "north")
    made.approve(STUDY)
    return made


def edit(hospital: LabHospital, old: str, new: str) -> None:
    path = hospital.folder / "node.toml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def while_rows_are_read(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    honest = vault_module.open_source

    def slowly(*arguments: object) -> object:
        happens()
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(vault_module, "open_source", slowly)


@pytest.mark.parametrize("what", ["rules", "consent source"])
def test_stored_bytes_stay_when_the_hospital_says_no_while_rows_are_read(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    order = hospital.order(STUDY)
    assert isinstance(hospital.ask(order), Result)

    def says_no() -> None:
        if what == "rules":
            edit(hospital, "[policy]", '[policy]\nrelease = "manual"')
        else:
            hospital.clock.advance(days=400 * 365)  # the study has ended, and the order too

    while_rows_are_read(monkeypatch, says_no)
    reply = hospital.ask(order)
    assert isinstance(reply, Refusal)
    assert reply.code == ("SB-219" if what == "rules" else "SB-209")
    assert hospital.charges() == 1


def test_the_key_that_is_trusted_is_the_one_that_is_compared(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody swaps coordinator.pub between two reads, and back: no vault trusts what it does not compare."""
    path, honest, hostile = hospital.folder / "coordinator.pub", Path.read_bytes, LabCoordinator()
    reads = []

    def swapped(self: Path) -> bytes:
        if self == path:
            reads.append(self)
            return honest(self) if len(reads) == 1 else hostile.public.to_bytes()
        return honest(self)

    hospital.vault.close()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", swapped)
        hospital.vault = hospital.open_vault()
    assert hospital.vault.rules.hold
    assert isinstance(hospital.ask(hospital.order(STUDY)), Result)


@pytest.mark.parametrize("how", ["nowhere", "keys alone", "no keys"])
def test_rules_with_another_state_that_is_none_leave_the_vault_where_it_is(
    hospital: LabHospital, how: str
) -> None:
    other = hospital.folder / "other"
    if how != "nowhere":
        shutil.copytree(hospital.config.state, other)
        for path in other.glob("vault.sqlite*" if how == "keys alone" else "keys/*"):
            path.unlink()
    edit(hospital, 'state = "state"', 'state = "other"')
    assert not hospital.vault.rules.others_are_ready
    reply = hospital.ask(hospital.order(STUDY))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-219"
    edit(hospital, 'state = "other"', 'state = "state"')
    assert isinstance(hospital.ask(hospital.order(STUDY)), Result)


def test_an_older_copy_of_the_state_under_another_name_opens_no_vault_past_the_anchor(
    hospital: LabHospital,
) -> None:
    shutil.copytree(hospital.config.state, hospital.folder / "other")
    assert isinstance(hospital.ask(hospital.order(STUDY)), Result)
    edit(hospital, 'state = "state"', 'state = "other"')
    rules = load_node_config(hospital.folder)
    hospital.vault.close()
    hospital.config = rules
    hospital.vault = hospital.open_vault()
    reply = hospital.ask(hospital.order(STUDY, round=2))
    assert isinstance(reply, Refusal)


def test_a_watching_node_goes_on_when_a_mistake_in_node_toml_is_put_right(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that opens no vault: the old one stays, answers nothing, and goes on by its own rules afterwards."""
    for name in ("inbox", "outbox"):
        (hospital.folder / name).mkdir()
    edit(hospital, "[policy]", 'inbox = "inbox"\noutbox = "outbox"\n[policy]')
    hospital.vault.close()
    steps = [
        lambda: edit(hospital, 'state = "state"', 'state = "elsewhere"'),
        lambda: write_mail(hospital.folder / "inbox", hospital.order(STUDY)),
        lambda: edit(hospital, 'state = "elsewhere"', 'state = "state"'),
        lambda: None,
    ]
    answered = []

    def instead_of_sleeping(seconds: float) -> None:
        answered.append(len(list_mail(hospital.folder / "outbox").mail))
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    monkeypatch.setattr(time, "sleep", instead_of_sleeping)
    done = CliRunner().invoke(app, ["exchange", str(hospital.folder), "--watch", "0.2"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert steps == [], done.output
    assert answered[-1] == 1, (answered, done.output)


def test_one_node_of_a_simulation_that_changes_leaves_the_vaults_of_the_others(
    tmp_path: Path,
) -> None:
    names = [LabHospital(tmp_path / name) for name in ("a", "b")]
    paths = [str(made.folder / "node.toml") for made in names]
    before = [client_app._vault_of_today(path) for path in paths]
    edit(names[0], "[policy]", '[policy]\nrelease = "manual"')
    after = [client_app._vault_of_today(path) for path in paths]
    assert after[0] is not before[0]
    assert after[1] is before[1]
    for vault in (*before, after[0]):
        vault.close()


def test_the_time_of_a_file_alone_changes_nothing(hospital: LabHospital) -> None:
    rules = RulesInForce.of(hospital.config)
    os.utime(hospital.folder / "node.toml", (1, 1))
    assert rules.hold
    assert not rules.others_are_ready
