"""A cable is cut in the middle of a round and mended: the same model, to the last bit, and nothing is charged twice."""

import datetime as dt
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import patient_rows, study_document, write_table
from network.namespaces import ADDRESS, COORDINATOR, PORT, Premises, wait_until, why_not
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import sign_study
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database
from solblom_server.rounds.runs import read_signed_study, start_run
from solblom_simulation.hospitals import (
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    node_files,
)

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("cut"),  # set up once, in one worker
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or ""),
]
SITES = ("north", "south", "west")
SEED, ROUNDS, PATIENTS = 17, 4, 60
CUT_SECONDS = 20.0


@dataclass
class Outcome:
    """What a run left: its model's digest, and the number of charges by hospital."""

    digest: str
    charges: dict[str, int]


@dataclass
class Cut:
    """What was seen of the cut: rounds closed soon after it and at its end, and how long the link was deaf by then."""

    soon: int
    late: int
    deaf_seconds: float


def create(home: Path, tables: Path) -> bytes:
    """Make a federation whose keys follow from a seed; return the signed study that all have approved."""
    tables.mkdir()
    for site in SITES:
        write_table(tables / f"{site}.csv", patient_rows(PATIENTS, site=site))
    create_federation(
        home,
        seed=SEED,
        tables={site: tables / f"{site}.csv" for site in SITES},
        policy=SimulationPolicy(),
        address=f"{ADDRESS}:{PORT}",
    )
    cohort = {"min_nodes": 3, "quorum": 3, "deadline_minutes": 5}
    document = study_document(training={"rounds": ROUNDS}, cohort=cohort)
    key = read_signing_key(home / "researcher" / "researcher.key")
    envelope = sign_study(document, key)
    approve_everywhere(home, envelope, seed=SEED, now=dt.datetime.now(dt.UTC))
    return envelope


def outcome(home: Path, run: str, premises: Premises) -> Outcome:
    """Read a run's model and the ledgers, the latter as hospital IT does."""
    database = Coordinator.open(home).database()
    digest = next(model[3] for model in database.models() if model[2] == run)
    database.close()
    show = ("node", "ledger", "show", "--json")
    nodes = [node.parent for node in node_files(home)]
    with ThreadPoolExecutor(2) as pool:
        shown = list(pool.map(lambda node: premises.solblom(COORDINATOR, *show, str(node)), nodes))
    charges = {
        node.name: len(json.loads(text)["events"]) for node, text in zip(nodes, shown, strict=True)
    }
    return Outcome(digest, charges)


def closed_rounds(database: Database, run: str) -> int:
    return sum(r.status == "closed" for r in database.rounds(run))


def link_status(home: Path, site: str) -> dict[str, Any]:
    """Return what a hospital's link last said; a file that is there is whole."""
    path = home / "sites" / site / "link" / "status.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def run_with_a_cut(premises: Premises, home: Path, envelope: bytes) -> tuple[str, Cut]:
    """Run over the cables, and cut that of the first hospital while the second round is open."""
    database = Coordinator.open(home).database()
    premises.start("service", COORDINATOR, "coordinator", "start", "--home", str(home))
    for site in SITES:
        premises.start(site, site, "node", "start", "--node", str(home / "sites" / site))
    for site in SITES:
        wait_until(
            f"{site} is not connected: {premises.words(site)}",
            lambda site=site: link_status(home, site).get("state") == "connected",  # type: ignore[misc]
            seconds=90,
        )
    row = database.create_run(
        study=read_signed_study(envelope).digest,
        name="lab",
        envelope=envelope,
        roster=",".join(SITES),
        transport="simulated-network",
        simulation=True,
        now=dt.datetime.now(dt.UTC),
    )
    wait_until(
        "no round has closed", lambda: closed_rounds(database, row.id) >= 1, seconds=90, every=0.02
    )
    premises.cut("north")
    try:
        time.sleep(3.0)
        soon = closed_rounds(database, row.id)
        time.sleep(CUT_SECONDS - 3.0)
        deaf_seconds = time.time() - link_status(home, "north")["last_contact"]
        cut = Cut(soon, closed_rounds(database, row.id), deaf_seconds)
    finally:
        premises.mend("north")
    wait_until(
        "the run did not go on",
        lambda: database.run(row.id).status not in ("open", "evaluating"),
        seconds=120,
    )
    assert database.run(row.id).status == "completed", database.run(row.id).reason
    database.close()
    return row.id, cut


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Outcome, Outcome, Cut]]:
    """Two copies of one federation: one runs undisturbed in this process, the other over a cable that is cut."""
    folder = tmp_path_factory.mktemp("cut")
    premises = Premises(folder, SITES)
    try:
        premises.create()
        envelope = create(folder / "f", folder / "tables")
        shutil.copytree(folder / "f", folder / "undisturbed")
        run, cut = run_with_a_cut(premises, folder / "f", envelope)
        disturbed = outcome(folder / "f", run, premises)
        now = dt.datetime.now(dt.UTC)
        calm = start_run(folder / "undisturbed", envelope, transport_name="local", now=now)
        yield disturbed, outcome(folder / "undisturbed", calm.run, premises), cut
    finally:
        premises.close()


def test_the_cut_stops_a_round_in_its_middle(runs: tuple[Outcome, Outcome, Cut]) -> None:
    _, _, cut = runs
    assert 1 <= cut.soon == cut.late < ROUNDS
    assert cut.deaf_seconds > CUT_SECONDS / 2


def test_a_cable_that_is_cut_and_mended_changes_no_bit_of_the_model(
    runs: tuple[Outcome, Outcome, Cut],
) -> None:
    disturbed, undisturbed, _ = runs
    assert disturbed.digest == undisturbed.digest


def test_a_cable_that_is_cut_and_mended_costs_no_patient_anything(
    runs: tuple[Outcome, Outcome, Cut],
) -> None:
    disturbed, undisturbed, _ = runs
    assert disturbed.charges == undisturbed.charges == dict.fromkeys(SITES, ROUNDS)
