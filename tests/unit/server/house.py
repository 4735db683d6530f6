"""A coordinator and three hospitals with real keys and no patients, which answer whatever a test makes them answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from lab import study_document
from solblom_models.aggregation.optimisers import ServerState
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.layout import pack
from solblom_protocol.messages.order import Order, read_order
from solblom_protocol.messages.result import Receipt, Refusal, write_refusal, write_result
from solblom_protocol.studies.study import StudyDocument, sign_study
from solblom_server.coordinator import Coordinator, create_coordinator
from solblom_server.database import Database
from solblom_server.rounds.exchange import RunContext, utc_now
from solblom_server.rounds.rounds import initial_model, run_rounds
from solblom_server.transports.grids.local import LocalGrid, LocalNode
from solblom_verify.canonical import digest

SITES = ("east", "north", "west")
HONEST = np.array([0.5, 0.25, 0.0, -0.5, 0.125, 1.0], dtype=np.float32)

Answer = Callable[["Hospital", Order], bytes]


def secret(label: str) -> bytes:
    return digest(label.encode()).encode()[-32:]


@dataclass
class Hospital:
    """A hospital with real keys and no patients: it answers whatever a test makes it answer."""

    site: str
    coordinator: PublicKeys
    study: StudyDocument
    answer: Answer
    orders: list[Order] = field(default_factory=list)

    @property
    def signing(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(secret(f"signing-{self.site}"))

    @property
    def sealing(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(secret(f"sealing-{self.site}"))

    @property
    def public(self) -> PublicKeys:
        return PublicKeys(self.site, self.signing.public_key(), self.sealing.public_key())

    def __call__(self, message: Message, context: Context) -> Message:
        """Play Flower's ClientApp."""
        sealed = message.content.array_records["solblom"]["sealed"].data
        order = read_order(sealed, key=self.sealing, coordinator=self.coordinator.signing)
        self.orders.append(order)
        reply = self.answer(self, order)
        array = Array(dtype="uint8", shape=(len(reply),), stype="solblom.sealed", data=reply)
        return Message(RecordDict({"solblom": ArrayRecord({"sealed": array})}), reply_to=message)

    def result(
        self, asked: Order, update: np.ndarray = HONEST, *, key: Any = None, **changes: Any
    ) -> bytes:
        """Return an honest result, or one with changes."""
        data, header = pack([update]), asked.header
        values: dict[str, Any] = {
            "schema": "solblom.receipt/1",
            "kind": "train",
            "outside_epsilon": [],
            "site": self.site,
            "node": self.public.key_id,
            "study": header.study,
            "run": header.run,
            "round": header.round,
            "base_model": header.base_model,
            "order": asked.digest,
            "work": digest(f"{self.site}-{header.round}".encode()),
            "update": digest(data),
            "event": self.study.round_event.to_json(),
            "noise_commitment": digest(b"c"),
            "cohort": digest(b"p"),
            "consent": digest(b"q"),
            "patients": "50-99",
            "code": digest(b"code"),
            "fixed_point_bits": 24,
            "simulation": True,
        }
        receipt = Receipt(**(values | changes))
        return write_result(
            receipt, data, key=key or self.signing, recipient=self.coordinator.sealing
        )[0]


def explode(hospital: Hospital, order: Order) -> bytes:
    raise RuntimeError("no such patient")


def refuse(hospital: Hospital, order: Order) -> bytes:
    refusal = Refusal(
        schema="solblom.refusal/1",
        site=hospital.site,
        node=hospital.public.key_id,
        order=order.digest,
        code="SB-205",
    )
    return write_refusal(refusal, key=hospital.signing, recipient=hospital.coordinator.sealing)


class House:
    """A coordinator and three hospitals around a study of two rounds, quorum two."""

    def __init__(
        self,
        folder: Path,
        answers: dict[str, Answer],
        *,
        deadline_minutes: float = 60.0,
        training: dict[str, Any] | None = None,
        quorum: int = 2,
    ) -> None:
        cohort = {"min_nodes": 3, "quorum": quorum, "deadline_minutes": deadline_minutes}
        self.document = study_document(training={"rounds": 2} | (training or {}), cohort=cohort)
        self.coordinator: Coordinator = create_coordinator(
            folder, name="lab", entropy=lambda label: secret(label)
        )
        self.hospitals = {
            site: Hospital(
                site, self.coordinator.public, self.document, answers.get(site, Hospital.result)
            )
            for site in SITES
        }
        self.database = Database(folder / "coordinator.sqlite")
        self.run_id = ""

    def run(self) -> ServerState:
        """Run both rounds over the local grid."""
        context = self.begin(local_grid(self))
        try:
            return run_rounds(context)
        finally:
            replies = self.database.replies(self.run_id)
            self.answers = [(r.round, r.site, r.kind, r.code) for r in replies]

    def begin(self, grid: Grid) -> RunContext:
        """Return a new run over a grid."""
        run = self.database.create_run(
            study=self.document.digest,
            name="lab",
            envelope=sign_study(self.document, self.coordinator.signing),
            roster=",".join(SITES),
            transport="local",
            simulation=True,
            now=utc_now(),
        ).id
        self.run_id = run
        return RunContext(
            grid=grid,
            coordinator=self.coordinator,
            database=self.database,
            run=run,
            document=self.document,
            nodes={site: hospital.public for site, hospital in self.hospitals.items()},
            addresses={site: n for n, site in enumerate(self.hospitals)},
            layout=initial_model(self.document)[1],
            folder=self.coordinator.home / "runs" / run,
        )


def local_grid(house: House) -> LocalGrid:
    """Return the grid that reaches a house's hospitals."""
    return LocalGrid({n: LocalNode(h, {}) for n, h in enumerate(house.hospitals.values())})
