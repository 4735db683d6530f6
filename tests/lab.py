"""A laboratory: real hospitals with real vaults, and a coordinator that tests can turn hostile.

In the manner of python-tuf's repository simulator: attacks are written by changing what the
coordinator sends, never by mocking the vault. Everything lives in the test's own folder.
"""

import datetime as dt
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_client.approvals.approval import approve
from solblom_client.keys import read_node_keys
from solblom_client.node import create_node
from solblom_client.policy import load_node_config
from solblom_client.vault import Vault
from solblom_models.study_document import resolve
from solblom_protocol.contracts.table import Contract
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.order import OrderHeader, RosterEntry, write_order
from solblom_protocol.messages.result import KeyReply, Refusal, Result, read_reply
from solblom_protocol.messages.seal import lock
from solblom_protocol.studies.study import StudyDocument, sign_study
from solblom_protocol.studies.tables import Study
from solblom_protocol.sums.secure_sum import Roster
from solblom_protocol.toml_file import parse
from solblom_server.rounds.rounds import initial_model
from solblom_verify.canonical import digest

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)

STUDY: dict[str, Any] = {
    "study": {
        "name": "lab",
        "title": "A study of the laboratory",
        "purpose": "Test",
        "legal_basis": ["none needed: made-up patients"],
        "ends": "2027-12-31",
    },
    "task": {
        "name": "tabular-classification",
        "target": "ill",
        "model": {"kind": "logistic"},
        "contract": "contract.toml",
    },
    "training": {"rounds": 3, "learning_rate": 0.5, "expected_batch_size": 40.0},
    "privacy": {"epsilon": 2.0, "delta": 1e-5, "clipping_norm": 1.0, "sampling_rate": 0.5},
    "cohort": {"min_nodes": 1, "min_patients": 12, "quorum": 1},
}

CONTRACT: dict[str, Any] = {
    "name": "lab",
    "version": 1,
    "target": {
        "name": "ill",
        "column": "ill",
        "positive": ["1"],
        "negative": ["0"],
        "meaning": {"en": "ill", "no": "syk"},
    },
    "variable": [
        {
            "kind": "number",
            "name": "age",
            "column": "age",
            "unit": "a",
            "minimum": 0,
            "maximum": 120,
            "center": 50,
            "scale": 10,
            "missing": ["?"],
            "meaning": {"en": "age", "no": "alder"},
        },
        {
            "kind": "boolean",
            "name": "smoker",
            "column": "smoker",
            "true": ["1"],
            "false": ["0"],
            "meaning": {"en": "smoker", "no": "røyker"},
        },
        {
            "kind": "category",
            "name": "grade",
            "column": "grade",
            "levels": ["a", "b", "c"],
            "meaning": {"en": "grade", "no": "grad"},
        },
    ],
}


def study_document(*, members: Roster | None = None, **changes: Any) -> StudyDocument:
    """Return a resolved study; `changes` like `privacy={"epsilon": 1.0}` are merged table by table.

    `members` is the roster of a study with shared noise.
    """
    tables = {name: dict(table) for name, table in STUDY.items()}
    for name, change in changes.items():
        tables.setdefault(name, {}).update(change)
    contract = parse(Contract, CONTRACT, source="lab")
    return resolve(parse(Study, tables, source="lab"), contract, members)


def patient_rows(count: int, *, site: str, seed: int = 1) -> list[dict[str, str]]:
    """Return made-up patients whose illness depends on age and smoking."""
    rng = random.Random(f"{site}-{seed}")  # noqa: S311 - made-up patients
    rows = []
    for number in range(count):
        age, smoker = rng.randint(20, 90), rng.random() < 0.4
        ill = rng.random() < (0.2 + 0.5 * (age > 55) + 0.2 * smoker)
        rows.append(
            {
                "patient_id": f"{site}-patient-{number:04d}",
                "age": str(age),
                "smoker": str(int(smoker)),
                "grade": rng.choice("abc"),
                "ill": str(int(ill)),
            }
        )
    return rows


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as CSV."""
    columns = list(rows[0]) if rows else ["patient_id", "age", "smoker", "grade", "ill"]
    lines = [",".join(columns), *(",".join(row[c] for c in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass
class Clock:
    """A clock that a test moves."""

    now: dt.datetime = NOW

    def __call__(self) -> dt.datetime:
        """Return the present moment."""
        return self.now

    def advance(self, **delta: float) -> None:
        """Move on, or back with negative values."""
        self.now += dt.timedelta(**delta)


@dataclass
class LabCoordinator:
    """The other side: it holds real keys, and sends whatever a test wants."""

    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    sealing: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    @property
    def public(self) -> PublicKeys:
        """What hospitals pin."""
        return PublicKeys("coordinator", self.signing.public_key(), self.sealing.public_key())


class LabHospital:
    """One hospital with a real vault, and the means to send it orders."""

    def __init__(
        self,
        folder: Path,
        *,
        coordinator: LabCoordinator | None = None,
        site: str = "north",
        patients: int = 60,
        policy: str = "",
        consent_rule: str = "opt-out",
        anchor: str = "anchor.json",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.site = folder, site
        self.coordinator = coordinator or LabCoordinator()
        self.researcher = Ed25519PrivateKey.generate()
        self.clock = Clock()
        researcher = PublicKeys(
            "researcher", self.researcher.public_key(), X25519PrivateKey.generate().public_key()
        )
        (folder / "coordinator.pub").write_bytes(self.coordinator.public.to_bytes())
        (folder / "researcher.pub").write_bytes(researcher.to_bytes())
        self.rows = patient_rows(patients, site=site)
        self.write_rows(self.rows)
        self.write_consent([])
        (folder / "node.toml").write_text(
            f"""
[node]
site = "{site}"
state = "state"
anchor = "{anchor}"
[coordinator]
key = "coordinator.pub"
[policy]
tasks = ["tabular-classification"]
study_signers = ["researcher.pub"]
{policy}
[consent]
source = "consent.csv"
rule = "{consent_rule}"
max_age_hours = 10000000
[[dataset]]
name = "patients"
connector = "table"
path = "patients.csv"
""",
            encoding="utf-8",
        )
        self.config = load_node_config(folder)
        self.public = create_node(self.config)
        self.vault = self.open_vault()

    def open_vault(self) -> Vault:
        """Open the vault anew, as after a restart."""
        return Vault(self.config, clock=self.clock)

    def restart(self) -> None:
        """Close and open the vault."""
        self.vault.close()
        self.vault = self.open_vault()

    def write_rows(self, rows: list[dict[str, str]]) -> None:
        """Replace the hospital's table."""
        write_table(self.folder / "patients.csv", rows)

    def write_consent(self, lines: list[str]) -> None:
        """Replace the consent file; a line is `patient,status,valid_until`."""
        text = "\n".join(["patient_id,status,valid_until", *lines]) + "\n"
        path = self.folder / "consent.csv"
        path.write_text(text, encoding="utf-8")
        os.utime(path, (self.clock().timestamp(),) * 2)  # as fresh as the laboratory's clock

    def sign(self, document: StudyDocument) -> bytes:
        """Return the study signed by the researcher whom this hospital knows."""
        return sign_study(document, self.researcher)

    def approve(self, document: StudyDocument) -> None:
        """Approve a study as hospital IT would."""
        keys = read_node_keys(self.config.state)
        approve(self.config, keys, self.sign(document), now=self.clock())

    def header(self, document: StudyDocument, array: bytes, **changes: Any) -> OrderHeader:
        """Return the header of an honest order for round 1, with `changes`."""
        _, layout = initial_model(document)
        values: dict[str, Any] = {
            "schema": "solblom.order/1",
            "kind": "train",
            "coordinator": self.coordinator.public.key_id,
            "site": self.site,
            "node": self.public.key_id,
            "study": document.digest,
            "run": "lab-1",
            "round": 1,
            "attempt": 1,
            "issued": timestamp(self.clock()),
            "expires": timestamp(self.clock() + dt.timedelta(hours=1)),
            "base_model": digest(array),
            "layout": layout.to_json(),
            "roster": [RosterEntry(site=self.site, node=self.public.key_id)],
            "noise": "local",
            "previous_order": None,
            "last_receipt": None,
            "masking": (),
        }
        return OrderHeader(**(values | changes))

    def order(
        self, document: StudyDocument, *, array: bytes | None = None, **changes: Any
    ) -> bytes:
        """Return an honest sealed order for round 1, or one with a changed header or model."""
        weights = initial_model(document)[0] if array is None else array
        header = self.header(document, weights, **changes)
        return write_order(
            header, lock(weights), key=self.coordinator.signing, recipient=self.public.sealing
        ).sealed

    def evaluation(self, document: StudyDocument, **changes: Any) -> bytes:
        """Return an honest sealed order to evaluate the initial model."""
        return self.order(document, **({"kind": "evaluate"} | changes))

    def description(self, document: StudyDocument, **changes: Any) -> bytes:
        """Return an honest sealed order for Table 1."""
        values = {"kind": "describe", "layout": []} | changes
        return self.order(document, array=values.pop("array", b""), **values)

    def read(self, reply: bytes) -> Result | Refusal | KeyReply:
        """Open a reply as the coordinator would."""
        return read_reply(reply, key=self.coordinator.sealing, node=self.public.signing)

    def ask(self, sealed: bytes) -> Result | Refusal | KeyReply:
        """Give a sealed order to the vault and open its reply."""
        return self.read(self.vault.process(sealed))

    def charges(self) -> int:
        """Return the number of events in the ledger."""
        return len(self.vault.ledger.entries())
