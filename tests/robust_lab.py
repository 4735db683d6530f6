"""Five real hospitals with real vaults around one study; one of them may lie about what its vault gave.

A hostile hospital may run any code under its own keys. Here it keeps its vault and rewrites the export gate, so all
that the coordinator can check holds: keys, receipts, order chain, layout, grid.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from sklearn.metrics import roc_auc_score

from fixed_secrets import fixed_secrets
from lab import CONTRACT, LabHospital, patient_rows, study_document, write_table
from solblom_client import answers
from solblom_client.export_gate import export_update as answers_honestly
from solblom_client.export_gate import norm_bound
from solblom_models.aggregation.optimisers import ServerState
from solblom_models.flat import load_flat
from solblom_models.tabular.data import read_units
from solblom_models.tabular.table_file import read_csv
from solblom_models.task import find_task
from solblom_protocol.contracts.table import Contract
from solblom_protocol.messages.layout import Float32, pack, to_grid
from solblom_protocol.studies.study import StudyDocument, sign_study
from solblom_protocol.toml_file import parse
from solblom_server.coordinator import Coordinator, create_coordinator
from solblom_server.database import Database
from solblom_server.rounds.exchange import RunContext, utc_now
from solblom_server.rounds.rounds import initial_model, run_rounds
from solblom_server.transports.grids.local import LocalGrid, LocalNode
from solblom_verify.canonical import digest

SIZES = {"bodo": 500, "bergen": 420, "oslo": 460, "tromso": 250, "vadso": 120}
LIAR = "oslo"
POLICY = "allow_privacy_off = true\nstudy_epsilon = 8.0\nepsilon_budget = 1000.0\ndelta = 1e-3"
TRAINED = 0.7  # of a hospital's patients
STUDY: dict[str, Any] = {
    "training": {"rounds": 8, "learning_rate": 1.0},
    "privacy": {"epsilon": 8.0, "delta": 1e-3, "sampling_rate": 1.0},
    "cohort": {"min_nodes": 5, "quorum": 5},
}
SUMS = TRAINED * sum(SIZES.values()) / len(SIZES)
OWN = {site: float(round(TRAINED * size)) for site, size in SIZES.items()}
RULES: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": "fedavg", "expected_batch_size": SUMS},
    "median": {"strategy": "median", "expected_batch_size": OWN},
    "trimmed-mean": {"strategy": "trimmed-mean", "tolerated": 1, "expected_batch_size": OWN},
    "krum": {"strategy": "krum", "tolerated": 1, "expected_batch_size": OWN},
}

Lie = Callable[[Float32, float], Float32]
"""From a vault's honest update, and the norm that its own gate would let through, to what is sent instead."""


def flipped(update: Float32, bound: float) -> Float32:
    """Turn the update round, ten times as large."""
    return to_grid(update.astype(np.float64) * -10)


def scaled(update: Float32, bound: float) -> Float32:
    """Turn the update round, as large as any honest one may be."""
    values = update.astype(np.float64)
    return to_grid(values * (-0.999 * bound / np.linalg.norm(values)))


@dataclass
class RobustLab:
    """A coordinator and five hospitals; studies run in it one after another."""

    folder: Path
    liars: tuple[str, ...] = (LIAR,)

    def __post_init__(self) -> None:
        entropy = lambda label: digest(label.encode()).encode()[-32:]  # noqa: E731
        self.coordinator: Coordinator = create_coordinator(
            self.folder / "home", name="lab", entropy=entropy
        )
        self.database = Database(self.folder / "home" / "coordinator.sqlite")
        with fixed_secrets("robust-lab"):
            self.hospitals = {
                site: LabHospital(
                    self.folder / site,
                    coordinator=self.coordinator,  # type: ignore[arg-type] # has the same keys
                    site=site,
                    patients=size,
                    policy=POLICY,
                )
                for site, size in SIZES.items()
            }
        self.test = self.folder / "elsewhere.csv"
        write_table(self.test, patient_rows(2000, site="elsewhere", seed=9))

    def study(self, rule: str, *, seed: int, **privacy: Any) -> StudyDocument:
        """Return a study under a rule; each seed gives another one, which hospitals approve anew."""
        changes = {name: dict(table) for name, table in STUDY.items()}
        changes["training"] |= RULES[rule] | {"seed": seed}
        changes["privacy"] |= privacy
        return study_document(**changes)

    def auroc(self, study: StudyDocument, *, lie: Lie | None = None, invented: int = 0) -> float:
        """Run a study to its end and return its model's AUROC on patients of none of the hospitals.

        `invented` patients with turned labels take the place of the liar's; its vault is honest about them.
        """
        liar = self.hospitals[LIAR]
        if invented:
            rows = patient_rows(invented, site=LIAR, seed=2)
            liar.write_rows([row | {"ill": str(1 - int(row["ill"]))} for row in rows])
        try:
            return self._score(study, self.run(study, lie))
        finally:
            liar.write_rows(liar.rows)

    def run(self, study: StudyDocument, lie: Lie | None = None) -> ServerState:
        """Let all hospitals approve a study, then run its rounds."""
        for hospital in self.hospitals.values():
            with fixed_secrets(f"approval-{study.digest}"):
                hospital.approve(study)
        nodes = {
            number: LocalNode(self._door(site, lie if site in self.liars else None), {})
            for number, site in enumerate(self.hospitals)
        }
        return run_rounds(self._begin(study, LocalGrid(nodes)))

    def _begin(self, study: StudyDocument, grid: LocalGrid) -> RunContext:
        run = self.database.create_run(
            study=study.digest,
            name="lab",
            envelope=sign_study(study, self.coordinator.signing),
            roster=",".join(sorted(self.hospitals)),
            transport="local",
            simulation=True,
            now=utc_now(),
        ).id
        clock = next(iter(self.hospitals.values())).clock
        return RunContext(
            grid=grid,
            coordinator=self.coordinator,
            database=self.database,
            run=run,
            document=study,
            nodes={site: hospital.public for site, hospital in self.hospitals.items()},
            addresses={site: number for number, site in enumerate(self.hospitals)},
            layout=initial_model(study)[1],
            folder=self.coordinator.home / "runs" / run,
            clock=clock,
        )

    def _door(self, site: str, lie: Lie | None) -> Callable[[Message, Context], Message]:
        """Return a hospital's ClientApp, which lies where it is told to."""
        hospital = self.hospitals[site]

        def answer(message: Message, context: Context) -> Message:
            sealed = message.content.array_records["solblom"]["sealed"].data
            with nullcontext() if lie is None else lying(lie):
                reply = hospital.vault.process(sealed)
            array = Array(dtype="uint8", shape=(len(reply),), stype="solblom.sealed", data=reply)
            return Message(
                RecordDict({"solblom": ArrayRecord({"sealed": array})}), reply_to=message
            )

        return answer

    def _score(self, study: StudyDocument, state: ServerState) -> float:
        task, layout = find_task(study.study.task.name), initial_model(study)[1]
        units = read_units(
            read_csv(self.test, id_column="patient_id"), parse(Contract, CONTRACT, source="lab")
        )
        net = task.build(study)
        load_flat(net, layout, state.final_model())
        return float(roc_auc_score(units.labels, task.scores(net, units)))


def lying(lie: Lie) -> Any:
    """Let a vault's export gate be one that its hospital has rewritten: it lets out what the lie makes of an update."""

    def export(before: Float32, *given: Any, **named: Any) -> bytes:
        honest = np.frombuffer(answers_honestly(before, *given, **named), dtype="<f4")
        return pack([lie(honest, norm_bound(before, named["settings"], named["trace"]))])

    return mock.patch.object(answers, "export_update", export)
