"""A hospital's own proxy, trusted by the node, reads and changes everything: it learns nothing and decides nothing.

One run of a real service over hostile lines. What was done stands in SCHEDULE; every attack is seen,
named, and costs a question. A third hospital has data files that make its vault fail.
"""

import datetime as dt
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from network_lab import NetworkLab
from security.man_in_the_middle import RAW, ManInTheMiddle, flipped
from security.real_network import RealNetwork, real_network
from solblom_client.keys import read_node_keys
from solblom_client.link.fleet import FleetConnection, FleetSettings
from solblom_client.link.transport_key import public_transport_pem
from solblom_client.vault import Vault
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.order import OrderHeader, RosterEntry, write_order
from solblom_protocol.messages.seal import lock, unseal
from solblom_protocol.studies.study import parse_document
from solblom_server.coordinator import Coordinator, create_coordinator
from solblom_server.rounds.rounds import initial_model
from solblom_server.rounds.run_report import run_report
from solblom_server.rounds.runs import resume_run, stored_payload
from solblom_verify.canonical import digest
from unit.client.bad_servers import Authority

pytestmark = pytest.mark.slow  # one run of about 45 seconds, then the tests
SITES = ("north", "south", "west")
ROUNDS = 4
CHANGES = {
    "training": {"rounds": ROUNDS},
    "cohort": {"min_nodes": 2, "quorum": 2, "deadline_minutes": 3},
}
PLANTED = "SECRET-PATIENT-0042"
# What happens to each message with sealed bytes, one after another; afterwards nothing more.
SCHEDULE = {
    ("order", "north"): ["flip", "", "replay", "", "raw", "", "", ""],
    ("reply", "north"): ["", "", "", "", "replay", "", "swap", ""],
    ("order", "south"): ["", "", "misdirect", "", "", "stranger", "", ""],
    ("reply", "south"): ["flip", "", "", "", "raw", "", "", "swap", ""],
}
HEAD = "patient_id,age,smoker,grade,ill\n"
HOSTILE_TABLES = [
    f"{HEAD}{PLANTED},{PLANTED},1,a,1\n".encode(),
    f"{HEAD}{PLANTED},50,1,a,1\n".encode() + PLANTED.encode() + b"\xff\xfe,51,1,a,0\n",
    f"{PLANTED},smoker,grade,ill\n{PLANTED},1,a,1\n".encode(),
    f'{HEAD}"{PLANTED},50,1,a,1\n{"x" * 200_000}'.encode(),
]


@dataclass
class Attacker:
    """Chooses what happens to a message; knows what passed before, and no key."""

    network: RealNetwork
    stranger: Coordinator
    seen: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def order(self, site: str, sealed: bytes) -> bytes:
        return self._act("order", site, sealed)

    def reply(self, site: str, sealed: bytes) -> bytes:
        return self._act("reply", site, sealed)

    def _act(self, way: str, site: str, sealed: bytes) -> bytes:
        with self.lock:
            before = self.seen.setdefault((way, site), [])
            acts = SCHEDULE.get((way, site), [])
            act = acts[len(before)] if len(before) < len(acts) else ""
            before.append(sealed)
            if act:
                self.done.append(f"{act} {way} {site}")
            return self._changed(act, way, site, sealed)

    def _changed(self, act: str, way: str, site: str, sealed: bytes) -> bytes:
        other = "south" if site == "north" else "north"
        if act == "flip":
            return flipped(sealed)
        if act == "raw":
            return RAW
        if act == "replay":
            return self.seen[way, site][1]  # the first that was answered, or was an answer
        if act in ("swap", "misdirect"):
            return self.seen[way, other][-1]
        if act == "stranger":
            return self._order_of_stranger(site)
        return sealed

    def _order_of_stranger(self, site: str) -> bytes:
        """Return a perfect order of another coordinator of the same name, for this very node."""
        lab = self.network.lab
        row = lab.database.runs()[0]
        document = parse_document(stored_payload(row.envelope))
        array, layout = initial_model(document)
        nodes = {node.name: node for node in lab.coordinator.nodes()}
        now = dt.datetime.now(dt.UTC)
        header = OrderHeader(
            schema="solblom.order/1",
            kind="train",
            coordinator=self.stranger.public.key_id,
            site=site,
            node=nodes[site].key_id,
            study=document.digest,
            run=row.id,
            round=1,
            attempt=1,
            issued=timestamp(now),
            expires=timestamp(now + dt.timedelta(hours=1)),
            base_model=digest(array),
            layout=layout.to_json(),
            roster=[RosterEntry(site=s, node=nodes[s].key_id) for s in sorted(SITES)],
            noise="local",
            previous_order=None,
            last_receipt=None,
            masking=(),
        )
        key, sealing = self.stranger.signing, nodes[site].sealing
        return write_order(header, lock(array), key=key, recipient=sealing).sealed


@dataclass
class FailingVault:
    """A real vault whose table is replaced by the next hostile one before each order."""

    vault: Vault
    table: Path
    orders: int = 0

    def process(self, sealed: bytes) -> bytes:
        self.table.write_bytes(HOSTILE_TABLES[min(self.orders, len(HOSTILE_TABLES) - 1)])
        self.orders += 1
        return self.vault.process(sealed)


@dataclass
class Scene:
    """The run after it has ended, and everything that the man in the middle holds."""

    network: RealNetwork
    middle: ManInTheMiddle
    attacker: Attacker
    run: str

    def vault_log(self, site: str) -> str:
        path = self.network.config(site).state / "log" / "vault.jsonl"
        return path.read_text(encoding="utf-8")

    def opened(self) -> list[bytes]:
        """Return the plain text of all orders and replies, with the keys that their owners hold."""
        keys = {site: read_node_keys(self.network.config(site).state).sealing for site in SITES}
        plain = [unseal(sealed, kind="order", key=keys[s]) for s, sealed in self.middle.orders]
        own = self.network.lab.coordinator.sealing
        return plain + [unseal(sealed, kind="reply", key=own) for _, sealed in self.middle.replies]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("middle")
    with real_network(folder, sites=SITES, changes=CHANGES) as network:
        attacker = Attacker(network, stranger(folder / "second"))
        trusted = Authority(folder / "proxy")  # hospital IT put it into coordinator.ca_file
        sites = {public_transport_pem(network.key(site)).encode(): site for site in SITES}
        middle = ManInTheMiddle(
            network.url,
            network.authority,
            trusted.context(),
            sites,
            order=attacker.order,
            reply=attacker.reply,
        )
        started = [start_hospital(network, site, middle, trusted.pem) for site in SITES]
        try:
            run = network.lab.start_run("network")
            row = network.lab.wait(run, seconds=150, look_after=False)
            assert (row.status, row.reason) == ("completed", None)
            network.stop_links()
            yield Scene(network, middle, attacker, run)
        finally:
            network.stop_links()
            for opened in (item for hospital in started for item in hospital):
                opened.close()
            middle.close()


def stranger(folder: Path) -> Coordinator:
    """Make a second coordinator of the same name."""
    return create_coordinator(folder, name="simulation", entropy=lambda label: os.urandom(32))


def start_hospital(network: RealNetwork, site: str, middle: ManInTheMiddle, ca: Path) -> list[Any]:
    """Start a link; return what must be closed after it."""
    config = network.config(site)
    settings = FleetSettings(f"https://127.0.0.1:{middle.port}", ca, None, network.key(site))
    vault = Vault(config)
    door: Any = vault
    if site == "west":
        door = FailingVault(vault, config.path(config.dataset[0].path))
    connection = FleetConnection(settings)
    network.start_link(site, connection, door)
    return [connection, vault]


def test_everything_on_the_schedule_was_done(scene: Scene) -> None:
    planned = {f"{a} {way} {site}" for (way, site), acts in SCHEDULE.items() for a in acts if a}
    assert set(scene.attacker.done) == planned
    assert sorted(scene.middle.raw_done) == ["order north", "reply south"]
    assert scene.middle.trouble == []


def test_a_trusted_proxy_reads_no_word_of_an_order_or_a_reply(scene: Scene) -> None:
    """No sixteen bytes of any plain text (models, updates, counts, studies) were on the line."""
    line = b"\0".join(scene.middle.recorded)
    texts = scene.opened()
    assert len(texts) > 2 * ROUNDS * 2
    assert any(b"solblom.order/1" in text or b'"payload"' in text for text in texts)
    windows = {text[at : at + 16] for text in texts for at in range(0, len(text) - 16, 4)}
    windows = {window for window in windows if len(set(window)) > 4}  # zeros are everywhere
    assert len(windows) > 1000
    assert {window for window in windows if window in line} == set()
    assert all(sealed in line for _, sealed in scene.middle.orders), (
        "the search finds what is there"
    )


def test_a_trusted_proxy_reads_no_value_of_a_model(scene: Scene) -> None:
    line = b"\0".join(scene.middle.recorded)
    folder = scene.network.home / "runs" / scene.run
    document = parse_document(stored_payload(scene.network.lab.envelope))
    size = len(initial_model(document)[0])
    arrays = [text[-size:] for text in scene.opened() if len(text) > size]
    values = {array[at : at + 8] for array in arrays for at in range(0, size - 8, 4)}
    values = {value for value in values if len(set(value)) > 4}
    assert len(values) > 20
    assert folder.is_dir()
    assert {value for value in values if value in line} == set()


def test_changed_orders_are_refused_inside_and_named_there(scene: Scene) -> None:
    """A flipped byte and an order for another node do not open; a stranger's order is not signed by the pinned key."""
    for site, codes in {"north": ["SB-202"], "south": ["SB-202", "SB-201"]}.items():
        log = scene.vault_log(site)
        for code in codes:
            assert code in log, (site, code)


def test_a_second_coordinator_of_the_same_name_opens_no_reply(scene: Scene) -> None:
    for _, sealed in scene.middle.replies:
        with pytest.raises(IntegrityError):
            unseal(sealed, kind="reply", key=scene.attacker.stranger.sealing)


def test_changed_replayed_and_swapped_replies_are_named_by_the_coordinator(scene: Scene) -> None:
    rows = scene.network.lab.database.replies(scene.run)
    found = {(row.site, row.round): row.code for row in rows if row.kind == "invalid"}
    assert found["south", 1] == "SB-405"  # a flipped byte
    assert found["north", 3] == "SB-404"  # an old reply, played again
    # The other hospital's reply opens, since both are for the coordinator, and is not this one's.
    assert (found["north", ROUNDS], found["south", ROUNDS]) == ("SB-403", "SB-403")


def test_no_attack_changed_the_model_or_what_was_charged(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same federation in one process, with the same bad data at the third hospital and nobody in the middle."""
    local = NetworkLab(tmp_path / "home", sites=SITES, changes=CHANGES)
    local.create()
    try:
        (local.home / "sites" / "west" / "patients.csv").write_bytes(HOSTILE_TABLES[0])
        run = resume_run(local.home, local.start_run("local"), now=dt.datetime.now(dt.UTC))
        ours = run_report(scene.network.home, scene.run)["rounds"]
        alone = run_report(local.home, run.run)["rounds"]
        assert [r["result"] for r in ours] == [r["result"] for r in alone]
        assert len(ours) == ROUNDS
    finally:
        local.close()
    charges = scene.network.lab.charges()
    assert (charges["north"], charges["south"]) == (ROUNDS, ROUNDS)


def test_a_vault_that_fails_on_a_planted_patient_tells_its_own_log_only(scene: Scene) -> None:
    rows = scene.network.lab.database.replies(scene.run)
    codes = [row.code for row in rows if row.site == "west"]
    assert codes == ["SB-209", "SB-209", "SB-209", "SB-210"], "three strikes, then stopped"
    west = scene.network.config("west")
    shown = west.path(west.dataset[0].path).read_bytes()
    assert PLANTED.encode() in shown
    assert "Traceback" in scene.vault_log("west") or PLANTED in scene.vault_log("west")
    line = b"\0".join(scene.middle.recorded + scene.opened())
    for word in (PLANTED, PLANTED.lower(), "Traceback", "patients.csv", "UnicodeDecodeError"):
        assert word.encode() not in line
        assert word.encode().hex().encode() not in line


def test_the_planted_patient_stands_nowhere_at_the_coordinator(scene: Scene) -> None:
    """Front's and SuperLink's logs, the database, runs and models: everything but the hospitals' own folders."""
    home = scene.network.home
    looked_at = []
    for path in home.rglob("*"):
        if path.is_file() and (home / "sites") not in path.parents:
            looked_at.append(path.name)
            assert PLANTED.encode() not in path.read_bytes(), path
    assert {"front.txt", "superlink.txt", "coordinator.sqlite", "lab-service.txt"} <= set(looked_at)


def test_what_a_proxy_does_see_is_who_and_when_and_how_much(scene: Scene) -> None:
    """The limits of the seal, said plainly: node numbers, the run's name, round numbers and sizes are in clear."""
    line = b"\0".join(scene.middle.recorded)
    assert scene.run.encode() in line
    for word in (b"Test", b"A study of the laboratory", b"epsilon", b"smoker", b"clipping_norm"):
        assert word not in line


def test_a_byte_that_is_flipped_on_the_wire_is_named_where_it_arrives(scene: Scene) -> None:
    """The link names the part whose digest is wrong, Flower the object; then the coordinator asks, and goes on."""
    said = [status for status in scene.network.statuses["north"] if status.code == "SB-627"]
    assert any("digest" in str(status.trouble) for status in said)
    log = (scene.network.home / "log" / "superlink.txt").read_text(encoding="utf-8")
    assert "does not match content hash" in log
    results = [r for r in scene.network.lab.database.replies(scene.run) if r.kind == "result"]
    assert len(results) == 2 * ROUNDS
