"""Every courier, every fault, on both ways: the run ends in the undisturbed model, and nothing is charged twice."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.serverapp import Grid

from couriers.carried_fleet import CarriedFleet
from couriers.faulty import FAULTS, FaultyGrid
from integration.federation import SITES, Federation, now
from solblom_client.link.exchange import exchange_once
from solblom_client.policy import load_node_config
from solblom_client.vault import Vault
from solblom_protocol.errors import RunError
from solblom_server.rounds.run_report import run_report
from solblom_server.rounds.runs import FinishedRun, start_run
from solblom_server.transports.files import EXCHANGE
from solblom_server.transports.grids.files import FileGrid
from solblom_simulation import federation as transports

pytestmark = pytest.mark.usefixtures("no_evaluation")
COURIERS = ("local", "files", "fleet")


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the simulation's exact evaluation: it needs no courier."""
    for transport in (transports.LocalTransport, CarriedFiles, CarriedFleet):
        monkeypatch.setattr(transport, "evaluate", lambda *_: None)


class CarriedFiles(transports.SimulatedFiles):
    """The file courier with its hospitals in this process: a pass of each before every look for replies."""

    def __init__(self, home: Path) -> None:
        transports.FileTransport.__init__(self, home)
        self._nodes = transports.node_files(home)
        self._configs = [load_node_config(node) for node in self._nodes]
        self._vaults = [Vault(config) for config in self._configs]
        self.grid = FileGrid(self.folders, before_pull=self._carry)
        self.grid.poll_seconds = 0.01

    def _carry(self) -> None:
        for config, vault in zip(self._configs, self._vaults, strict=True):
            exchange_once(config, vault)

    def close(self) -> None:
        for vault in self._vaults:
            vault.close()


def open_with(monkeypatch: pytest.MonkeyPatch, courier: str, wrap: Callable[[Grid], Grid]) -> None:
    """Let the next run travel over `courier`, with `wrap` around its grid."""
    kinds = {"local": transports.LocalTransport, "files": CarriedFiles, "fleet": CarriedFleet}
    kind = kinds[courier]

    def open_transport(name: str, home: Path) -> object:
        transport = kind(home)
        transport.grid = wrap(transport.grid)
        return transport

    monkeypatch.setattr("solblom_server.rounds.runs.open_transport", open_transport)


def run_over(federation: Federation) -> FinishedRun:
    return start_run(federation.home, federation.envelope, transport_name="local", now=now())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of a run without faults, by what its last round led to."""
    federation = Federation(tmp_path_factory.mktemp("undisturbed") / "home")
    return last_model(federation, federation.start())


def last_model(federation: Federation, run: FinishedRun) -> str:
    result: str = run_report(federation.home, run.run)["rounds"][-1]["result"]
    return result


def is_slow(courier: str, fault: str, at: int) -> bool:
    """Flower's own faults stand below FleetGrid: test_flower_faults.py; above it, one of each way is quick."""
    if courier == "fleet":
        return fault != "cut" or at > 1
    return at > 1 and fault != "replay"


# One of the first round's messages; one of the last round's in `make test-all`.
POINTS = (1, 2 * len(SITES) + 1)
CASES = [
    pytest.param(
        courier, fault, way, at, marks=pytest.mark.slow if is_slow(courier, fault, at) else ()
    )
    for courier, fault, way, at in itertools.product(
        COURIERS, (*FAULTS, "reorder"), ("order", "reply"), POINTS
    )
    if not (fault in ("delay", "reorder") and way == "order")
    # Orders are known by their content there; what is misdirected below: test_files.py, test_flower_faults.py.
    and not (courier != "local" and way == "order" and fault in ("replay", "swap"))
    and not (fault == "replay" and at == 1)  # nothing came before the first
]


@pytest.mark.parametrize(("courier", "fault", "way", "at"), CASES)
def test_a_fault_of_the_courier_changes_no_bit_and_no_charge(
    courier: str,
    fault: str,
    way: str,
    at: int,
    undisturbed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation, faulty = Federation(tmp_path / "home"), []

    def wrap(grid: Grid) -> Grid:
        faulty.append(FaultyGrid(grid, fault, way, at))  # type: ignore[arg-type]
        return faulty[0]

    open_with(monkeypatch, courier, wrap)
    run = run_over(federation)
    assert faulty[0].struck or fault == "reorder"
    assert last_model(federation, run) == undisturbed
    rounds = [(number, "spent") for number in (1, 2, 3)]
    assert federation.charges() == dict.fromkeys(SITES, rounds)


@pytest.mark.parametrize("courier", COURIERS)
def test_without_faults_every_courier_gives_the_same_model(
    courier: str, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path / "home")
    open_with(monkeypatch, courier, lambda grid: grid)
    assert last_model(federation, run_over(federation)) == undisturbed


def test_orders_on_their_way_are_waited_for_after_a_restart(
    tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator dies while the files travel; started anew it takes the replies and asks nobody twice."""
    federation = Federation(tmp_path / "home")

    class Dies(FileGrid):
        def pull_messages(self, message_ids: object) -> list[object]:
            raise RunError("SB-501", "the coordinator's machine was switched off")

    def dying(grid: Grid) -> Grid:
        assert isinstance(grid, FileGrid)
        return Dies(grid._folders)

    open_with(monkeypatch, "files", dying)
    with pytest.raises(RunError):
        run_over(federation)
    written = {path.name for path in (federation.home / EXCHANGE).glob("*/orders/*.order")}
    assert len(written) == len(SITES)
    open_with(monkeypatch, "files", lambda grid: grid)
    run = federation.resume(next(iter(run_ids(federation))))
    assert last_model(federation, run) == undisturbed
    attempts = orders(federation)
    assert attempts == dict.fromkeys([(n, site) for n in (1, 2, 3) for site in SITES], 1)


def run_ids(federation: Federation) -> list[str]:
    from solblom_server.coordinator import Coordinator

    database = Coordinator.open(federation.home).database()
    try:
        return [row.id for row in database.runs()]
    finally:
        database.close()


def orders(federation: Federation) -> dict[tuple[int, str], int]:
    """Return how many orders to train were written for each round and site."""
    import sqlite3

    connection = sqlite3.connect(federation.home / "coordinator.sqlite")
    rows = connection.execute(
        "SELECT round, site, count(*) FROM orders WHERE kind = 'train' GROUP BY round, site"
    )
    found = {(number, site): count for number, site, count in rows}
    connection.close()
    return found
