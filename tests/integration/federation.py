"""Three small hospitals of real patients, a coordinator and a researcher, in one folder."""

import datetime as dt
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from solblom_client.approvals.approval import approve
from solblom_client.budget.ledger import STATE_FILE, Ledger, open_ledger
from solblom_client.cli import ledger_report
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_client.state import VaultState
from solblom_client.training.dp_sgd import TrainingTrace
from solblom_models.study_document import resolve
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import StudyDocument, load_study, sign_study
from solblom_protocol.studies.tables import Study
from solblom_server.rounds.rounds import PROGRESS
from solblom_server.rounds.runs import FinishedRun, resume_run, start_run
from solblom_simulation.hospitals import (
    SimulationPolicy,
    create_federation,
    heart_tables,
    seeded_entropy,
)

SITES = ("cleveland", "hungarian", "va")
EVERY = 3  # every third patient; the tables are in order of diagnosis
ROUNDS = 3
SEED = 7
Traces = dict[str, list[TrainingTrace]]
"""What training really did at each hospital, round by round."""

PRIVACY = {"epsilon": 4.0, "sampling_rate": 0.5}


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass
class Federation:
    """A folder with everything in it; `approving` are the hospitals that approve the study at once."""

    home: Path
    seed: int = SEED
    quorum: int = 3
    approving: Iterable[str] = SITES
    study_epsilon: float = PRIVACY["epsilon"]  # what each hospital allows a study
    sites: tuple[str, ...] = SITES
    shared_noise: bool = False  # whether hospitals let others add part of their noise
    training: dict[str, Any] = field(default_factory=dict)  # other settings of the study's training
    document: StudyDocument = field(init=False)
    envelope: bytes = field(init=False)

    def __post_init__(self) -> None:
        policy = SimulationPolicy(
            study_epsilon=self.study_epsilon, shared_noise=self.shared_noise, min_honest_nodes=2
        )
        tables = small_tables(self.home.parent / f"{self.home.name}-tables", self.sites)
        create_federation(self.home, seed=self.seed, tables=tables, policy=policy)
        self.document = study(self.home, quorum=self.quorum, training=self.training)
        key = read_signing_key(self.home / "researcher" / "researcher.key")
        self.envelope = sign_study(self.document, key)
        (self.home / "study.signed.json").write_bytes(self.envelope)
        for site in self.approving:
            self.approve(site)

    def approve(self, site: str) -> None:
        """Let one hospital approve, with the noise root that follows from the public seed."""
        config = load_node_config(self.home / "sites" / site)
        root = seeded_entropy(self.seed, site)("noise-root")
        approve(config, read_node_keys(config.state), self.envelope, now=now(), root=root)

    def start(self) -> FinishedRun:
        """Run the study over the local grid."""
        return start_run(self.home, self.envelope, transport_name="local", now=now())

    def resume(self, run: str) -> FinishedRun:
        """Go on with a run."""
        return resume_run(self.home, run, now=now())

    def charges(self) -> dict[str, list[tuple[int, str]]]:
        """Return (round, status) of each charge, by hospital."""
        return {s: [(e.round, e.status) for e in self.ledger(s).entries()] for s in self.sites}

    def ledger(self, site: str) -> Ledger:
        """Open a hospital's ledger."""
        config = load_node_config(self.home / "sites" / site)
        return open_ledger(config, VaultState(config.state / STATE_FILE))

    def spent(self, site: str) -> str:
        """Return what the hospital's own ledger says the study has cost."""
        config = load_node_config(self.home / "sites" / site)
        report = ledger_report(config, self.ledger(site))
        epsilon: str = report["studies"][0]["epsilon"]
        return epsilon


@contextmanager
def progress(callback: Any) -> Iterator[None]:
    token = PROGRESS.set(callback)
    try:
        yield
    finally:
        PROGRESS.reset(token)


def small_tables(folder: Path, sites: Iterable[str] = SITES) -> dict[str, Path]:
    """Write a third of the patients of embedded tables; `second` is another third of Cleveland's."""
    folder.mkdir()
    chosen = {}
    for site in sites:
        table, first = ("cleveland", 1) if site == "second" else (site, 0)
        header, *rows = heart_tables()[table].read_text(encoding="utf-8").splitlines(keepends=True)
        chosen[site] = folder / f"{site}.csv"
        chosen[site].write_text("".join([header, *rows[first::EVERY]]), encoding="utf-8")
    return chosen


def study(home: Path, *, quorum: int, training: dict[str, Any] | None = None) -> StudyDocument:
    """Return the template's study with few rounds, two steps a round, and every second patient."""
    values = TemplateValues(name="small", ends=dt.date(2099, 12, 31), rounds=ROUNDS, seed=1)
    written, contract, _ = load_study(
        write_template(home / "study", "tabular-classification", values)
    )
    changes: dict[str, dict[str, Any]] = {
        "training": {"local_steps": 2} | (training or {}),
        "privacy": PRIVACY,
        "cohort": {"quorum": quorum, "min_nodes": max(3, quorum)},
    }
    changed = {
        table: getattr(written, table).model_copy(update=change)
        for table, change in changes.items()
    }
    tables: Study = written.model_copy(update=changed)
    return resolve(tables, contract)
