"""The small federation with a secure sum: three hospitals, each adds a share of the noise."""

from dataclasses import dataclass
from typing import Any

from integration.federation import Federation
from solblom_models.study_document import resolve
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import StudyDocument, sign_study
from solblom_protocol.studies.tables import EvaluationTable, SecureSumTable, TableOneTable
from solblom_protocol.sums.secure_sum import Roster
from solblom_server.coordinator import Coordinator


@dataclass
class SharedFederation(Federation):
    """A federation whose study masks every update, one score histogram and a Table 1."""

    releases: bool = True
    ring_bits: int = 32
    colluders: int = 1
    threshold: int | None = None

    def __post_init__(self) -> None:
        approving, self.approving = list(self.approving), []
        self.shared_noise, self.study_epsilon = True, 6.0
        super().__post_init__()
        self.document = shared(
            self.document,
            Roster.of(Coordinator.open(self.home).nodes()),
            releases=self.releases,
            table={
                "ring_bits": self.ring_bits,
                "colluders": self.colluders,
                "threshold": self.threshold,
            },
        )
        key = read_signing_key(self.home / "researcher" / "researcher.key")
        self.envelope = sign_study(self.document, key)
        for site in approving:
            self.approve(site)


def shared(
    document: StudyDocument, roster: Roster, *, releases: bool, table: dict[str, Any]
) -> StudyDocument:
    """Return the study with shared noise instead of local noise."""
    study, nodes = document.study, len(roster.members)
    changes: dict[str, Any] = {
        "privacy": study.privacy.model_copy(
            update={"epsilon": 6.0, "noise": "shared", "sampling_rate": 1.0}
        ),
        "training": study.training.model_copy(update={"local_steps": 1, "learning_rate": 4.0}),
        "cohort": study.cohort.model_copy(
            update={"min_nodes": nodes, "quorum": table.get("threshold") or nodes}
        ),
        "secure_sum": SecureSumTable(roster="roster.json", **table),
    }
    if releases:
        changes["evaluation"] = EvaluationTable(releases=1)
        changes["table_one"] = TableOneTable(epsilon=1.0, variables=("male", "disease"))
    return resolve(study.model_copy(update=changes), document.contract, roster)
