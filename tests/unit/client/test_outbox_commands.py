"""Claims about `node outbox`, `node log`, `node pause`: what a person at the hospital types, and reads."""

import datetime as dt
import json
import re
import socket
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lab import LabHospital, study_document
from security.observer import PLANTED
from solblom_client.approvals.record import study_titles
from solblom_client.cli import app
from solblom_client.link.process import pause_file
from solblom_client.log.decision_log import log_place, read_entries
from solblom_client.outbox.words import REFUSALS_NO, WORDS
from solblom_client.service.opening_hours import vault_pause_file
from solblom_protocol.errors import CODES
from solblom_protocol.messages.result import Refusal
from solblom_protocol.messages.result import Result as Answer

RUNNER = CliRunner()


@pytest.fixture
def careful(tmp_path: Path) -> LabHospital:
    """A hospital of today where a person releases each answer, and one waits."""
    lab = LabHospital(tmp_path / "north", policy='release = "manual"')
    lab.clock.now = dt.datetime.now(dt.UTC)
    lab.rows[0]["patient_id"] = PLANTED
    lab.write_rows(lab.rows)
    lab.write_consent([])
    document = study_document(study={"ends": "2999-12-31"})
    lab.approve(document)
    assert isinstance(lab.ask(lab.order(document)), Refusal)
    return lab


def test_status_counts_the_answers_that_wait_for_a_person(careful: LabHospital) -> None:
    told = json.loads(run(careful, "status", "--json").stdout)
    assert told["to_do"] == ["1 answer waits for a person: solblom node outbox list"]


def run(lab: LabHospital, *words: str) -> Result:
    return RUNNER.invoke(app, [*words, "--node", str(lab.folder)])


def told(lab: LabHospital, *words: str) -> dict[str, Any]:
    result = run(lab, *words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["schema"] == f"solblom.node.{'.'.join(words[:2])}/1"
    return found


def test_list_show_release_then_the_coordinator_gets_it(careful: LabHospital) -> None:
    (answer,) = told(careful, "outbox", "list")["answers"]
    name = answer["request"][7:15]
    shown = run(careful, "outbox", "show", name).stdout
    for word in ("bytes", "tensors", "norm", "epsilon", careful.coordinator.public.key_id):
        assert word[:30] in shown
    assert run(careful, "outbox", "release", name).exit_code == 2  # who releases it?
    done = told(careful, "outbox", "release", name, "--by", "Kari Nordmann")
    assert (done["status"], done["by"]) == ("released", "Kari Nordmann")
    assert told(careful, "outbox", "list")["answers"] == []
    document = study_document(study={"ends": "2999-12-31"})
    assert isinstance(careful.ask(careful.order(document, attempt=2)), Answer)
    assert run(careful, "outbox", "release", name, "--by", "Kari").exit_code == 4


def test_a_rejected_answer_is_said_to_be_gone(careful: LabHospital) -> None:
    (answer,) = told(careful, "outbox", "list")["answers"]
    done = told(careful, "outbox", "reject", answer["request"], "--by", "Kari Nordmann")
    assert done["status"] == "rejected"
    (shown,) = told(careful, "outbox", "list", "--all")["answers"]
    assert shown["status"] == "rejected"


def test_a_record_that_cannot_be_read_is_named_beside_the_others(careful: LabHospital) -> None:
    name = f"{'0' * 64}.json"
    (careful.config.state / "outbox" / name).write_bytes(b"")
    found = told(careful, "outbox", "list")
    assert (len(found["answers"]), found["broken"]) == (1, [name])
    assert name in run(careful, "outbox", "list").stdout
    assert run(careful, "outbox", "show", "0000").exit_code == 5


def test_a_person_accepts_a_log_by_name(careful: LabHospital) -> None:
    assert run(careful, "log", "accept").exit_code == 2  # who says so?
    place = log_place(careful.config)
    careful.vault.close()
    for path in (*place.folder.iterdir(), place.checkpoints[1]):
        path.unlink()
    assert run(careful, "log", "verify").exit_code == 5
    assert run(careful, "pause").exit_code == 5
    told(careful, "log", "accept", "--by", "Kari Nordmann")
    assert told(careful, "log", "verify")["ok"] is True
    assert run(careful, "pause").exit_code == 0


@pytest.mark.parametrize("name", ["ff", "zzzz", "../../etc/passwd", "0000000000"])
def test_an_answer_that_is_not_there_is_a_wrong_word(careful: LabHospital, name: str) -> None:
    assert run(careful, "outbox", "show", name).exit_code == 3


# --- What left


@pytest.fixture
def told_page(careful: LabHospital) -> LabHospital:
    document = study_document(study={"ends": "2999-12-31"})
    (answer,) = told(careful, "outbox", "list")["answers"]
    told(careful, "outbox", "release", answer["request"], "--by", "Kari Nordmann")
    careful.ask(careful.order(document, attempt=2))
    careful.ask(careful.order(document, round=9))
    careful.ask(b"garbage")
    return careful


def test_the_statement_says_what_left_what_was_refused_and_what_it_cost(
    told_page: LabHospital,
) -> None:
    page = told(told_page, "outbox", "statement")
    (study,) = page["studies"]
    (left,) = study["left"]
    assert (left["kind"], left["round"]) == ("train", 1)
    assert (left["status"], left["by"]) == ("manual-release", "Kari Nordmann")
    assert left["size"] == 4 * left["values"] > 0
    assert left["to"] == told_page.coordinator.public.key_id
    assert study["refused"] == {"SB-219": 1, "SB-205": 1}
    assert page["refused_unknown"] == {"SB-202": 1}
    ledger = json.loads(RUNNER.invoke(app, ["ledger", "show", str(told_page.folder), "--json"]).stdout)  # fmt: skip
    assert (page["budget"], page["remaining"]) == (ledger["budget"], ledger["left"])
    assert study["epsilon"] == ledger["studies"][0]["epsilon"]


@pytest.mark.parametrize("lang", ["no", "en"])
def test_the_page_loads_nothing_and_names_no_patient(
    told_page: LabHospital, tmp_path: Path, lang: str
) -> None:
    path = tmp_path / "page.html"
    assert run(told_page, "outbox", "statement", "--lang", lang, "--html", str(path)).exit_code == 0
    page = path.read_text("utf-8")
    assert WORDS[lang]["title"] in page
    assert f'lang="{"nb" if lang == "no" else "en"}"' in page
    assert not re.search(r"(src|href)=|https?://|@import|url\(|<script", page)
    for text in (page, run(told_page, "outbox", "statement", "--lang", lang).stdout):
        assert PLANTED not in text
        assert "Kari Nordmann" in text or text is not page


def test_both_languages_say_the_same_things() -> None:
    assert WORDS["no"].keys() == WORDS["en"].keys()
    assert all(WORDS["no"][key] != "" for key in WORDS["en"])


def test_the_page_escapes_whatever_stands_in_the_log(told_page: LabHospital) -> None:
    from dataclasses import replace

    from solblom_client.budget.ledger import STATE_FILE
    from solblom_client.outbox.statement import collect_statement, statement_html
    from solblom_client.state import VaultState

    state = VaultState(told_page.config.state / STATE_FILE)
    found = replace(collect_statement(told_page.config, state), site="<script>alert(1)</script>")
    state.close()
    assert "<script>" not in statement_html(found, "en")


# --- The log


def test_log_verify_says_yes_and_then_no_when_an_entry_was_changed(careful: LabHospital) -> None:
    import sqlite3

    found = told(careful, "log", "verify")
    assert (found["ok"], found["problems"]) == (True, [])
    assert found["size"] == len(read_entries(log_place(careful.config)))
    careful.vault.close()
    database = sqlite3.connect(careful.config.state / "log" / "decisions.sqlite")
    with database:
        database.execute("UPDATE entries SET entry = replace(entry, 'held', 'released')")
    database.close()
    result = run(careful, "log", "verify", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["ok"] is False


def test_log_show_prints_the_newest(careful: LabHospital) -> None:
    entries = told(careful, "log", "show", "--last", "2")["entries"]
    assert len(entries) == 2
    assert "refused" in run(careful, "log", "show").stdout


def test_log_prune_keeps_what_is_young(careful: LabHospital) -> None:
    assert told(careful, "log", "prune")["pruned"] == 0


def test_log_forward_sends_to_the_address_in_node_toml(
    careful: LabHospital, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    toml = careful.folder / "node.toml"
    assert run(careful, "log", "forward", "--once").exit_code == 3
    toml.write_text(toml.read_text() + f'\n[log]\nsyslog = "unix:{path}"\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        count = told(careful, "log", "forward", "--once")["sent"]
        frames = [server.recv(65536) for _ in range(count)]
    assert count == len(read_entries(log_place(careful.config)))
    assert PLANTED.encode() not in b"".join(frames)


# --- The stop button


def test_pause_and_resume_tell_link_and_vault_and_are_logged(careful: LabHospital) -> None:
    assert run(careful, "pause").exit_code == 0
    assert pause_file(careful.config).exists()
    assert vault_pause_file(careful.config).exists()
    assert run(careful, "resume").exit_code == 0
    assert not pause_file(careful.config).exists()
    assert not vault_pause_file(careful.config).exists()
    events = [json.loads(entry)["event"] for entry in read_entries(log_place(careful.config))]
    assert events[-2:] == ["paused", "resumed"]


def test_the_statement_names_a_study_by_the_title_that_was_approved(told_page: LabHospital) -> None:
    title = study_document(study={"ends": "2999-12-31"}).study.study.title
    (study,) = told(told_page, "outbox", "statement")["studies"]
    assert study["title"] == title
    assert f'"{title}"' in run(told_page, "outbox", "statement").stdout
    folder = told_page.config.state / "approvals" / study["study"].removeprefix("sha256:")
    other = folder.with_name("0" * 64)  # not the digest of what stands in it
    other.mkdir()
    (other / "study.dsse.json").write_bytes((folder / "study.dsse.json").read_bytes())
    assert list(study_titles(told_page.config)) == [study["study"]]


def test_refusals_are_norwegian_on_the_norwegian_statement_and_the_same_as_on_the_stewards_page(
    told_page: LabHospital,
) -> None:
    page = run(told_page, "outbox", "statement", "--lang", "no").stdout
    assert "Sykehusets regler tillater det ikke" in page
    assert CODES["SB-205"].title not in page
    texts = files("solblom_server.steward") / "texts" / "told-no.toml"
    assert REFUSALS_NO.items() <= tomllib.loads(texts.read_text("utf-8"))["code"].items()
    assert REFUSALS_NO.keys() == {code for code in CODES if code.startswith("SB-2")}
