"""Three real hospitals of the laboratory that add up under masks, and a coordinator that tests can turn hostile."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab import LabCoordinator, LabHospital, study_document
from solblom_protocol.messages.layout import Layout
from solblom_protocol.messages.order import RosterEntry
from solblom_protocol.messages.result import KeyReply, Result
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.pair_masks import OpenedSum
from solblom_protocol.sums.ring import Ring
from solblom_protocol.sums.secure_sum import Roster
from solblom_server.rounds.rounds import initial_model

SITES = ("east", "north", "west")
POLICY = "shared_noise = { allow = true, min_honest_nodes = 2 }"
SHARED: dict[str, Any] = {
    "privacy": {"epsilon": 3.0, "noise": "shared", "sampling_rate": 1.0},
    "training": {"rounds": 3, "local_steps": 1},
    "cohort": {"min_nodes": 3, "quorum": 3},
    "secure_sum": {"roster": "roster.json"},
}


class SecureLab:
    """Hospitals that approved one study with shared noise, and their signed mask keys of the run `lab-1`."""

    def __init__(
        self, folder: Path, *, policy: str = POLICY, sites: tuple[str, ...] = SITES, **changes: Any
    ) -> None:
        self.coordinator = LabCoordinator()
        self.hospitals = {
            site: LabHospital(folder / site, coordinator=self.coordinator, site=site, policy=policy)
            for site in sites
        }
        self.roster = Roster.of([h.public for h in self.hospitals.values()])
        merged = {name: SHARED.get(name, {}) | changes.get(name, {}) for name in SHARED | changes}
        self.study: StudyDocument = study_document(members=self.roster, **merged)

    def approve(self) -> None:
        """Let every hospital approve the study."""
        for hospital in self.hospitals.values():
            hospital.approve(self.study)

    @property
    def entries(self) -> list[RosterEntry]:
        """The honest roster of an order."""
        return [RosterEntry(site=s, node=h.public.key_id) for s, h in self.hospitals.items()]

    def order(self, site: str, **changes: Any) -> bytes:
        """Return an honest masked order for round 1, or one with a changed header."""
        values = {"roster": self.entries, "noise": "shared"} | changes
        return self.hospitals[site].order(self.study, **values)

    def key(self, site: str, **changes: Any) -> str:
        """Ask a hospital for its mask key and return the signed envelope."""
        values = {"kind": "keys", "array": b"", "layout": Layout(()).to_json()} | changes
        reply = self.hospitals[site].ask(self.order(site, **values))
        assert isinstance(reply, KeyReply), reply
        return reply.envelope.decode()

    def keys(self, **changes: Any) -> tuple[str, ...]:
        """Ask all hospitals for their mask keys."""
        return tuple(self.key(site, **changes) for site in SITES)

    def results(self, keys: tuple[str, ...], **changes: Any) -> dict[str, Result]:
        """Ask all hospitals for round 1."""
        found = {}
        for site in SITES:
            reply = self.hospitals[site].ask(self.order(site, masking=keys, **changes))
            assert isinstance(reply, Result), reply
            found[site] = reply
        return found

    def open(self, results: dict[str, Result]) -> NDArray[np.int64]:
        """Return the opened sum of a round's results."""
        closed = OpenedSum(Ring(32), initial_model(self.study)[1].size, frozenset(SITES))
        for site, result in results.items():
            closed.add(site, result.update)
        return closed.open()
