"""Hospitals that see one cable and nothing else, set up by the commands alone; one of them has no cable at all."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from lab import CONTRACT, patient_rows, write_table
from network.namespaces import (
    ADDRESS,
    COORDINATOR,
    PORT,
    Premises,
    interfaces,
    ip,
    process_status,
    wait_until,
    why_not,
)
from network_lab import children

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("cables"),  # set up once, in one worker
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or ""),
]
SITES = ("north", "south", "west")
ISLAND = "island"
ROUNDS = 3
STUDY = {
    "study": {
        "name": "cables",
        "title": "A study over cables, and one stick",
        "purpose": "Test",
        "legal_basis": ["made-up patients"],
        "ends": "2099-12-31",
    },
    "task": {
        "name": "tabular-classification",
        "target": "ill",
        "model": {"kind": "logistic"},
        "contract": "contract.toml",
    },
    "training": {"rounds": ROUNDS, "learning_rate": 0.5, "expected_batch_size": 60.0},
    "privacy": {"epsilon": 2.0, "clipping_norm": 1.0},
    "cohort": {"min_nodes": 4, "quorum": 4, "min_patients": 20, "deadline_minutes": 3},
    "evaluation": {"releases": 1},
}


@dataclass
class Federation:
    """A federation that has trained one model, with what was seen meanwhile; everything still runs."""

    premises: Premises
    finished: dict[str, Any] = field(default_factory=dict)
    listening: dict[str, list[set[str]]] = field(default_factory=dict)

    def halves(self, site: str) -> dict[str, int]:
        """Return the process ids of a hospital's vault and link."""
        found = {}
        for child in children(self.premises.processes[site].pid):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found |= {half: child for half in ("vault", "link") if half.encode() in words}
        return found

    def superlink_port(self) -> int:
        status = json.loads((self.premises.folder / "federation/service.json").read_text())
        return int(status["superlink_port"])


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    premises = Premises(tmp_path_factory.mktemp("cables"), SITES, (ISLAND,))
    made = Federation(premises)
    try:
        premises.create()
        set_up(premises)
        start_all(premises)
        train(made)
        yield made
    finally:
        premises.close()


def set_up(premises: Premises) -> None:
    """Type what operator, hospitals and researcher would type."""
    where = ("--address", f"{ADDRESS}:{PORT}", "--listen", f"{ADDRESS}:{PORT}")
    premises.solblom(COORDINATOR, "coordinator", "init", "federation", "--name", "nordic", *where)
    premises.solblom(COORDINATOR, "study", "keygen", "researcher")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda site: enrol(premises, site), (*SITES, ISLAND)))
    folder = premises.folder / "study"
    folder.mkdir()
    text = tomli_w.dumps(STUDY).replace('"2099-12-31"', "2099-12-31")
    (folder / "study.toml").write_text(text, encoding="utf-8")
    (folder / "contract.toml").write_text(tomli_w.dumps(CONTRACT), encoding="utf-8")
    key = ("--key", "researcher/researcher.key")
    premises.solblom(COORDINATOR, "study", "sign", "study/study.toml", *key)
    approve = ("node", "approve", "study/study.signed.json")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda site: premises.solblom(site, *approve, site), (*SITES, ISLAND)))


def enrol(premises: Premises, site: str) -> None:
    """Invite a hospital and let it join, fingerprints compared."""
    home = ("--home", "federation")
    premises.solblom(COORDINATOR, "coordinator", "invite", site, *home)
    made = json.loads(premises.solblom(site, "node", "init", site, "--site", site, "--json"))
    premises.solblom(site, "node", "join", f"{site}.invite.json", "--node", site)
    heard = ("--fingerprint", made["fingerprint"])
    by_file = ("--by-file",) if site == ISLAND else ()
    words = ("coordinator", "enrol", f"{site}.join.json", *heard, *by_file, *home)
    premises.solblom(COORDINATOR, *words)
    rows = patient_rows(240, site=site)
    folder = premises.folder / site
    write_table(folder / "patients.csv", rows)
    consents = [f"{row['patient_id']},granted," for row in rows[:-3]]
    text = "\n".join(["patient_id,status,valid_until", *consents]) + "\n"
    (folder / "consent.csv").write_text(text, encoding="utf-8")
    shutil.copy(premises.folder / "researcher/researcher.pub", folder / "researcher.pub")


def start_all(premises: Premises) -> None:
    premises.start("service", COORDINATOR, "coordinator", "start", "--home", "federation")
    for site in SITES:
        premises.start(site, site, "node", "start", "--node", site)
    premises.start(ISLAND, ISLAND, "node", "exchange", ISLAND, "--watch", "0.2")
    for site in SITES:
        wait_until(
            f"{site} is not connected: {premises.words(site)}",
            lambda site=site: is_connected(premises.folder / site),  # type: ignore[misc]
            seconds=90,
        )


def is_connected(node: Path) -> bool:
    status = node / "link/status.json"
    if not (node / "vault/vault.sock").exists() or not status.is_file():
        return False
    return bool(json.loads(status.read_text())["state"] == "connected")


def train(federation: Federation) -> None:
    """Train a model; meanwhile carry the island's files, and look who listens."""
    premises = federation.premises
    words = ("study", "start", "study/study.toml", "--transport", "network")
    run = premises.start("run", COORDINATOR, *words, "--home", "federation", "--json")
    ends = time.monotonic() + 150
    while run.poll() is None and time.monotonic() < ends:
        carry(premises.folder)
        for name in (COORDINATOR, *SITES):
            federation.listening.setdefault(name, []).append(premises.listening(name))
        time.sleep(0.1)
    said = premises.words("run")
    assert run.poll() == 0, said
    federation.finished = json.loads(said[said.index("{\n") :])


def carry(folder: Path) -> None:
    """Move files between the coordinator and the island, as a person with a stick would."""
    exchange, node = folder / "federation/exchange" / ISLAND, folder / ISLAND
    for source, target in (
        (exchange / "orders", node / "inbox"),
        (node / "outbox", exchange / "replies"),
    ):
        for file in source.iterdir():
            if file.name.startswith(".") or (target / file.name).exists():
                continue  # still being written, or carried before
            shutil.copy(file, target / f".{file.name}")
            (target / f".{file.name}").rename(target / file.name)


def test_three_hospitals_on_cables_and_one_without_train_a_model_that_verifies(
    federation: Federation,
) -> None:
    premises, model = federation.premises, federation.finished["model"]["path"]
    trust = ("--trust", "federation/trust.json")
    premises.solblom(COORDINATOR, "model", "verify", model, *trust)
    words = ("run", "show", federation.finished["run"], "--home", "federation", "--json")
    shown = json.loads(premises.solblom(COORDINATOR, *words))
    assert shown["simulation"] is False
    assert [sorted(r["results"]) for r in shown["rounds"]] == [sorted((*SITES, ISLAND))] * ROUNDS
    assert [r["status"] for r in shown["releases"]] == ["released"]


@pytest.mark.parametrize("site", ["north", ISLAND])
def test_a_hospital_pays_once_for_each_round_and_release(federation: Federation, site: str) -> None:
    premises = federation.premises
    ledger = json.loads(premises.solblom(site, "node", "ledger", "show", site, "--json"))
    assert len(ledger["events"]) == ROUNDS + 1
    assert {event["status"] for event in ledger["events"]} == {"spent"}


def test_the_hospital_without_a_cable_has_loopback_only(federation: Federation) -> None:
    premises = federation.premises
    assert interfaces(premises.processes[ISLAND].pid) == ["lo"]
    assert premises.connect(ISLAND, ADDRESS, PORT) == "ENETUNREACH"


def test_no_hospital_listens_while_a_run_goes_on(federation: Federation) -> None:
    assert any(f"{ADDRESS}:{PORT}" in seen for seen in federation.listening[COORDINATOR])
    for site in SITES:
        assert len(federation.listening[site]) >= 10
        heard = set().union(*federation.listening[site])
        assert [at for at in heard if not at.startswith(("127.0.0.1:", "[::1]:"))] == []


def test_a_hospital_reaches_the_coordinators_port_and_no_other(federation: Federation) -> None:
    assert federation.premises.open_ports("north", ADDRESS) == {PORT}


def test_the_superlink_answers_on_the_coordinators_loopback_only(federation: Federation) -> None:
    premises, port = federation.premises, federation.superlink_port()
    assert premises.connect(COORDINATOR, "127.0.0.1", port) == "open"
    assert premises.connect("north", ADDRESS, port) == "ECONNREFUSED"
    assert premises.connect("north", "127.0.0.1", port) == "ECONNREFUSED"


def test_a_hospital_has_no_way_to_another(federation: Federation) -> None:
    premises = federation.premises
    north = premises.namespace("north")
    assert "default" not in ip("-n", north, "route")
    for other in ("south", "west"):
        assert premises.connect("north", premises.address(other), PORT) == "ENETUNREACH"
    ip("-n", north, "route", "add", premises.address("south"), "via", ADDRESS)
    try:
        # Also where a hospital gives itself a way: the coordinator forwards nothing.
        assert premises.connect("north", premises.address("south"), PORT) == "ETIMEDOUT"
    finally:
        ip("-n", north, "route", "del", premises.address("south"))


@pytest.mark.parametrize("site", SITES)
def test_the_vault_has_no_network_and_may_make_no_socket(federation: Federation, site: str) -> None:
    halves = federation.halves(site)
    vault, link = halves["vault"], halves["link"]
    assert interfaces(link) == ["lo", "eth0"]
    assert interfaces(vault) == ["lo"]
    status = process_status(vault)
    assert status["Seccomp"] == "2"  # a filter
    assert status["NoNewPrivs"] == "1"
    assert connect_beside(federation.premises, link) == "open"
    assert connect_beside(federation.premises, vault) == "ENETUNREACH"


def connect_beside(premises: Premises, pid: int) -> str:
    """Try to reach the coordinator from the network namespace of a process."""
    return premises.connect_from(f"/proc/{pid}/ns/net", ADDRESS, PORT)
