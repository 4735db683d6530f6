"""What a replay reads, made by real vaults and by the coordinator's own round loop, without the rest of an artefact."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from fixed_secrets import fixed_secrets
from lab import LabHospital
from solblom_client.keys import NodeKeys, is_test_patient, read_node_keys
from solblom_client.replaying.replay import ReplayedRound, replay_round
from solblom_models.aggregation.fold import Fold
from solblom_models.aggregation.optimisers import ServerState, step
from solblom_models.aggregation.robust import rule_in_words
from solblom_models.replay_files import GRADE_A, INITIAL, update_name
from solblom_protocol.messages.layout import Layout, pack, unpack
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument
from solblom_server.registry.release import checked_receipts, replies_by_round
from solblom_server.rounds.kept_updates import files_of_run
from solblom_server.rounds.rounds import initial_model
from solblom_verify.canonical import canonical_json, digest
from unit.server.house import House


def write_recording(
    folder: Path,
    document: StudyDocument,
    *,
    rounds: list[dict[str, Any]],
    sites: dict[str, str],
    state: ServerState,
    grade: str = GRADE_A,
    released: list[dict[str, Any]] | None = None,
) -> None:
    """Write the members and files of an artefact that a replay reads; `sites`: key id by site."""
    layout = initial_model(document)[1]
    final = pack([state.final_model()])
    manifest: Any = {
        "sites": {site: {"keyid": keyid} for site, keyid in sites.items()},
        "model": {"final_model": digest(final)},
        "training": {
            "study": document.digest,
            "replay_grade": grade,
            "rounds": rounds,
            "aggregation": {"rule": rule_in_words(document.study.training)},
        },
    }
    files = {
        "manifest.json": canonical_json(manifest),
        "training/study.json": document.payload(),
        "model/architecture.json": canonical_json({"layout": layout.to_json()}),
        "model/weights.safetensors": save(_tensors(final, layout)),
        "evaluation/report.json": canonical_json({"released": released or []}),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _tensors(final: bytes, layout: Layout) -> dict[str, Any]:
    values, found, start = unpack(final, layout), {}, 0
    for tensor in layout.tensors:
        found[tensor.name] = values[start : start + tensor.size].reshape(tensor.shape).copy()
        start += tensor.size
    return found


def write_run(house: House, state: ServerState, folder: Path) -> str:
    """Write what a house's run kept, as the release does; return its grade."""
    replies = replies_by_round(house.database, house.run_id)
    nodes = {site: hospital.public for site, hospital in house.hospitals.items()}
    rounds, records = [], []
    for row in house.database.rounds(house.run_id):
        receipts = checked_receipts(nodes, replies[row.round])
        updates = {site: receipt.update for site, (_, receipt) in receipts.items()}
        rounds.append(
            {"round": row.round, "base": row.base, "result": row.result, "updates": updates}
        )
        records.append(record(row.round, row.base, receipts))
    home = house.coordinator.home / "runs" / house.run_id
    kept = files_of_run(home, house.document, house.database, house.run_id, records)
    sites = {site: public.key_id for site, public in nodes.items()}
    write_recording(
        folder, house.document, rounds=rounds, sites=sites, state=state, grade=kept.grade
    )
    kept.copy_into(folder)
    return kept.grade


def record(number: int, base: str, receipts: Any) -> Any:
    """Return a round's record as far as keeping needs it."""
    from solblom_models.artefact import RoundRecord

    return RoundRecord(number, base, "", "", "", receipts, {}, [])


@dataclass
class LabRun:
    """A run with one hospital and its real vault, whose updates are kept; `number` rounds are done."""

    hospital: LabHospital
    document: StudyDocument
    folder: Path
    run: str = "lab-1"
    rounds: list[dict[str, Any]] = field(default_factory=list)
    state: ServerState = field(init=False)
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        initial, self.layout = initial_model(self.document)
        self.state = ServerState.initial(unpack(initial, self.layout).copy())
        self.put(INITIAL, initial)
        with fixed_secrets("approval"):
            self.hospital.approve(self.document)

    @property
    def keys(self) -> NodeKeys:
        """The hospital's keys."""
        return read_node_keys(self.hospital.config.state)

    @property
    def trained(self) -> list[str]:
        """Ids of the patients whom the study trains on, if all consent."""
        fraction, split = self.document.study.evaluation.split.test_fraction, self.keys.split
        ids = [row["patient_id"] for row in self.hospital.rows]
        return [patient for patient in ids if not is_test_patient(split, patient, fraction)]

    def put(self, name: str, data: bytes) -> None:
        """Write a file of the artefact."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)

    def next_round(self) -> Result:
        """Ask the hospital for one update, keep it, move the model."""
        number, model = len(self.rounds) + 1, pack([self.state.model])
        order = self.hospital.order(self.document, array=model, round=number, run=self.run)
        reply = self.hospital.ask(order)
        assert isinstance(reply, Result), reply
        self.put(update_name(number, self.hospital.site), bytes(reply.update))
        self.put(f"training/receipts/{number:03d}-{self.hospital.site}.dsse.json", reply.envelope)
        fold = Fold(self.layout.size)
        fold.add(unpack(reply.update, self.layout).astype(np.float32))
        training = self.document.study.training
        self.state = step(self.state, fold.mean(), training, round_number=number)
        self.rounds.append(
            {
                "round": number,
                "base": digest(model),
                "result": digest(pack([self.state.model])),
                "updates": {self.hospital.site: reply.receipt.update},
            }
        )
        return reply

    def finish(self, rounds: int) -> "LabRun":
        """Run what is missing of some rounds and write the rest of what a replay reads."""
        while len(self.rounds) < rounds:
            self.next_round()
        write_recording(
            self.folder,
            self.document,
            rounds=self.rounds,
            sites={self.hospital.site: self.hospital.public.key_id},
            state=self.state,
        )
        return self

    def replay(self, number: int, *, noise: bool = False) -> ReplayedRound:
        """Work on a round again, as hospital IT would."""
        return replay_round(
            self.hospital.config,
            self.keys,
            self.folder,
            number,
            with_noise=noise,
            now=self.hospital.clock(),
        )
