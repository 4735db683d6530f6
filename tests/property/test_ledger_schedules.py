"""Random schedules of crash, replay, restart, changed cohort and two studies: the ledger never under-charges.

Few schedules here; `python bench/ledger_schedules.py` runs ten thousand.
"""

import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lab import LabHospital, study_document
from solblom_client import vault as vault_module
from solblom_protocol.result import Result

STUDIES = [
    study_document(study={"name": name}, training={"rounds": 40}, privacy={"epsilon": 2.0})
    for name in ("first", "second")
]


class Schedules(RuleBasedStateMachine):
    """A hospital under a coordinator that asks anything at any time, and a machine that dies."""

    @initialize()
    def set_up(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.lab = LabHospital(Path(self.folder.name) / "north", patients=40)
        for study in STUDIES:
            self.lab.approve(study)
        self.rounds = [0, 0]
        self.attempts = [0, 0]
        self.trained: set[str] = set()  # every work digest that reached training, released or not
        self.last_orders: list[bytes] = []

    def _send(self, which: int, *, crash: bool = False) -> None:
        self.attempts[which] += 1
        order = self.lab.order(
            STUDIES[which],
            run=f"lab-{which}",
            round=max(self.rounds[which], 1),
            attempt=self.attempts[which],
        )
        self.last_orders.append(order)
        self._process(order, crash=crash)

    def _process(self, order: bytes, *, crash: bool = False) -> None:
        real = vault_module.train

        def watched(*args: object, **kwargs: object) -> object:
            entry = self.lab.vault.ledger.entries()[-1]
            rows = self.lab.vault._state.query("SELECT work FROM events WHERE work IS NOT NULL")
            self.trained |= {str(row[0]) for row in rows}
            assert entry is not None
            if crash:
                raise MemoryError("killed")
            return real(*args, **kwargs)  # type: ignore[arg-type]

        with mock.patch.object(vault_module, "train", watched):
            reply = self.lab.ask(order)
        if isinstance(reply, Result):
            self.trained.add(reply.receipt.work)

    @rule(which=st.integers(0, 1), crash=st.booleans())
    def next_round(self, which: int, crash: bool) -> None:
        self.rounds[which] += 1
        self.attempts[which] = 0
        self._send(which, crash=crash)

    @rule(which=st.integers(0, 1), crash=st.booleans())
    def ask_again(self, which: int, crash: bool) -> None:
        self._send(which, crash=crash)

    @rule(back=st.integers(1, 5))
    def replay(self, back: int) -> None:
        if len(self.last_orders) >= back:
            self._process(self.last_orders[-back])

    @rule(withdrawn=st.integers(0, 6))
    def change_consent(self, withdrawn: int) -> None:
        lines = [f"{row['patient_id']},withdrawn," for row in self.lab.rows[:withdrawn]]
        self.lab.write_consent(lines)

    @rule()
    def restart(self) -> None:
        self.lab.restart()

    @invariant()
    def every_work_has_a_charge_of_its_own(self) -> None:
        if not hasattr(self, "lab"):
            return
        rows = self.lab.vault._state.query("SELECT work FROM events")
        charged = [str(row[0]) for row in rows if row[0] is not None]
        assert self.trained <= set(charged)
        assert len(set(charged)) == len(charged)
        assert len(rows) >= len(self.trained)

    def teardown(self) -> None:
        if hasattr(self, "lab"):
            self.lab.vault.close()
            self.folder.cleanup()


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=8,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
