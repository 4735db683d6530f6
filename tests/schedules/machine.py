"""One hospital under a schedule of orders, deaths, restarts and changes, and what must hold after every step.

The vault, its ledger and its files are the real ones. After each step the ledger is read from disk by
SQL of this file's own and compared with what the vault was seen to do (`watch.py`), in training,
evaluation and Table 1:

* never under-charged: each noise that was really drawn for an order has a charge of its own with the
  same rate, noise, steps and patients, so the charges compose to at least what was drawn; no charge
  vanishes;
* never the same noise or coins for two inputs, never two noises or two updates for the same input;
* the same order again over the same patients: the same bytes, and no further charge;
* a reply is always about the patients of today, never about an earlier cohort;
* neither cap is passed, by the charges or by what was drawn;
* no row is read before a charge for the order is on disk, and the node opens after every death.

`tests/property/test_ledger_schedules.py` lets Hypothesis choose the schedules, and
`bench/ledger_schedules.py` runs ten thousand seeded ones.
"""

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import lab as lab_module
from schedules.plan import (
    Action,
    Template,
    digests,
    documents,
    random_schedule,
    run_name,
    start,
)
from schedules.watch import TEST_FRACTION, Asked, Drawing, Event, Killed, Watch, name_of
from solblom_client.vault import Vault
from solblom_models.accountant import pld_epsilon, rdp_epsilon
from solblom_protocol.errors import SolblomError
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.privacy_event import PrivacyEvent

Steps = tuple[tuple[float, float], ...]  # (sampling rate, noise multiplier), one per step
Cells = tuple[float, ...]  # deviation of the noise on each cell in which a patient is counted
Reference = Callable[[Steps, Cells, float], float]
Row = tuple[Any, ...]


UNDER = "never under-charged"
NOISE = "never the same noise for two inputs"
SAME = "same inputs, same bytes"
TODAY = "a reply is of today's patients"
ONE = "one charge"
CAPS = "caps are never passed"
ORDER = "no row before its charge"
OPENS = "the node opens again"
CLAIMS = (UNDER, NOISE, SAME, TODAY, ONE, CAPS, ORDER, OPENS)


class BrokenClaimError(AssertionError):
    """Something that must never happen has happened; `claim` says which claim it breaks."""

    def __init__(self, claim: str, what: str) -> None:
        super().__init__(f"{claim}: {what}")
        self.claim = claim


class Machine:
    """A hospital, two couriers at its door, and everything that was really drawn there."""

    def __init__(
        self, template: Template, folder: Path, watch: Watch, reference: Reference
    ) -> None:
        self.hospital = template.copy_to(folder)
        self.watch, self.reference, self._cohorts = watch, reference, template.cohorts
        self._budget = template.budget
        self.vaults = self._open()
        self.cohort = 0
        self.counts: Counter[str] = Counter()
        self._rounds: Counter[tuple[str, str]] = Counter()
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._receipts: dict[str, str] = {}
        self._sent: list[Asked] = []
        self._backup = self._state.read_bytes()
        self._dying: dict[str, bytes] = {}
        # What was seen so far.
        self._drawn: dict[bytes, tuple[str, Asked, Event]] = {}
        self._by_inputs: dict[str, tuple[bytes, bytes]] = {}
        self._coins: dict[bytes, str] = {}
        self._updates: dict[str, bytes] = {}
        self._made_for: dict[bytes, set[tuple[Any, str]]] = {}  # update → (request, patients)
        self._blocks: dict[Any, list[int]] = {}  # cohorts under which a request was asked, in a row
        self._replies: dict[Any, tuple[int, bytes]] = {}
        self._rows: list[Row] = []
        self._broken: BrokenClaimError | None = None

    def close(self) -> None:
        """Close both vaults."""
        for vault in self.vaults:
            vault.close()

    def run(self, actions: list[Action]) -> None:
        """Take all steps.

        Raises:
            BrokenClaimError: a claim was broken.
        """
        for action in actions:
            self.step(action)

    def step(self, action: Action) -> None:
        """Take one step and check every claim.

        Raises:
            BrokenClaimError: a claim was broken.
        """
        self.counts[f"step: {action.kind}"] += 1
        match action.kind:
            case "order":
                self._process(self._order(action), action)
            case "replay" if len(self._sent) > action.number:
                self._process(self._sent[-1 - action.number], action)
            case "cohort":
                self._change_cohort(action.number)
            case "restart":
                self._reopen()
            case "look":
                for study in digests():
                    self.vaults[action.handle].clear_strikes(study)
            case "back-up":
                self._backup = self._state.read_bytes()
            case "roll-back":
                self._roll_back(self._backup, action)
        self.check()

    # --- Steps

    def _order(self, action: Action) -> Asked:
        """Return the order that a coordinator writes who knows nothing of the other one."""
        document, run = documents()[action.study], run_name(action.study, action.run)
        key = (run, action.asks)
        study = document.study
        most = {"train": study.training.rounds, "evaluate": study.evaluation.releases}
        if action.new_round or not self._rounds[key]:
            self._rounds[key] = max(1, min(self._rounds[key] + 1, most.get(action.asks, 1)))
        self._attempts[key] += 1
        changes: dict[str, Any] = {"kind": action.asks, "run": run, "round": self._rounds[key]}
        changes |= {"attempt": self._attempts[key], "last_receipt": self._receipts.get(run)}
        first, layout = start(action.study)
        weights = first if action.model == 0 else np.full(layout.size, 0.25, "<f4").tobytes()
        if action.asks == "describe":
            weights, changes["layout"] = b"", []
        with mock.patch.object(lab_module, "initial_model", return_value=(first, layout)):
            sealed = self.hospital.order(document, array=weights, **changes)
        model = "" if action.asks == "describe" else str(action.model)
        digest = digests()[action.study]
        asked = Asked(action.asks, digest, run, self._rounds[key], model, sealed)
        self._sent.append(asked)
        return asked

    def _process(self, asked: Asked, action: Action) -> str | None:
        """Let a vault answer; return the code of a refusal."""
        watch = self.watch
        watch.begin(asked, action.trap)
        watch.before_death, watch.before_rows = self._remember_disk, self._check_charge_is_on_disk
        self._note_cohort(asked)
        reply: bytes | None = None
        try:
            reply = self.vaults[action.handle].process(asked.sealed)
            watch.here("before the reply has left")
        except Killed:
            self._die()
        except OSError:  # the courier failed; the vault's work is done
            reply = None
        watch.end()
        if watch.sprung is not None:
            kind = "death" if watch.sprung.kills else "error"
            self.counts[f"{kind}: {watch.sprung.point}"] += 1
        self._note_drawings()
        if self._broken is not None:
            raise self._broken
        return None if reply is None else self._read(asked, reply)

    def _note_cohort(self, asked: Asked) -> None:
        blocks = self._blocks.setdefault(asked.request, [])
        if blocks[-1:] != [self.cohort]:
            blocks.append(self.cohort)
            self._replies.pop(asked.request, None)

    def _read(self, asked: Asked, reply: bytes) -> str | None:
        opened = self.hospital.read(reply)
        if not isinstance(opened, Result):
            self.counts[f"refusal: {opened.code}"] += 1
            return opened.code
        self._receipts[asked.run] = opened.receipt_digest
        earlier = self._replies.get(asked.request)
        if earlier is None:
            self.counts["reply: new"] += 1
        else:
            self.counts["reply: the same bytes again"] += 1
            if earlier[1] != reply:
                raise BrokenClaimError(SAME, f"another reply to {asked.request}")
        self._replies[asked.request] = (self.cohort, reply)
        today = (asked.request, name_of(self.watch.joined))
        if today not in self._made_for.get(opened.update, set()):
            raise BrokenClaimError(TODAY, "an update of other inputs was sent")
        return None

    def _note_drawings(self) -> None:
        for drawing in self.watch.drawings:
            if not drawing.noise:
                continue
            kind = drawing.asked.kind
            self.counts[f"{kind}: worked on" if drawing.made else f"{kind}: died over it"] += 1
            if drawing.done not in (None, (float(drawing.event[2]), drawing.event[3])):
                self._fail(UNDER, f"{drawing.done} is not {drawing.event}")
            inputs = drawing.inputs
            seen = (inputs, drawing.asked, drawing.event)
            if self._drawn.setdefault(drawing.noise, seen)[0] != inputs:
                self._fail(NOISE, "one noise for two inputs")
            if drawing.coins and self._coins.setdefault(drawing.coins, inputs) != inputs:
                self._fail(NOISE, "the same coins for two inputs")
            streams = (drawing.noise, drawing.coins)
            if drawing.made and self._by_inputs.setdefault(inputs, streams) != streams:
                self._fail(SAME, "two noises for one input")
            if drawing.made:
                self._note_result(drawing)

    def _note_result(self, drawing: Drawing) -> None:
        if self._updates.setdefault(drawing.inputs, drawing.made) != drawing.made:
            self._fail(SAME, "two results for one input")
        made = self._made_for.setdefault(drawing.made, set())
        made.add((drawing.asked.request, drawing.patients))

    def _change_cohort(self, number: int) -> None:
        self.cohort = number
        for name, data in zip(("patients.csv", "consent.csv"), self._cohorts[number], strict=True):
            path = self.hospital.folder / name
            path.write_bytes(data)
            os.utime(path, (self.hospital.clock().timestamp(),) * 2)

    def _reopen(self) -> None:
        self.close()
        self.vaults = self._open()

    def _open(self) -> list[Vault]:
        try:
            return [self.hospital.open_vault() for _ in range(2)]
        except SolblomError as error:
            raise BrokenClaimError(OPENS, str(error)) from None

    def _roll_back(self, backup: bytes, action: Action) -> None:
        """Put an older state in place, as a careless restore would, and ask.

        Where the node finds nothing missing, it goes on from there; otherwise the newest state comes
        back.
        """
        newest, rows, anchor = self._state.read_bytes(), self._rows, self._anchor_bytes()
        self._restore(backup)
        self._rows = self._read_rows()
        code = self._process(self._order(action), Action("order", handle=action.handle))
        if code is None or self._anchor_bytes() != anchor:
            self.counts["roll-back: nothing was missing"] += 1
            self._replies.clear()
        else:
            self.counts[f"roll-back: refused, {code}"] += 1
            self._restore(newest)
            self._rows = rows

    def _anchor_bytes(self) -> bytes:
        anchor = self._files()[2]
        return anchor.read_bytes() if anchor.is_file() else b""

    def _restore(self, state: bytes) -> None:
        self.close()
        self._state.write_bytes(state)
        self.vaults = self._open()

    # --- Death

    @property
    def _state(self) -> Path:
        return self.hospital.config.state / "vault.sqlite"

    def _files(self) -> list[Path]:
        anchor = self.hospital.folder / "anchor.json"
        return [self._state, self._journal, anchor, anchor.with_suffix(".partial")]

    @property
    def _journal(self) -> Path:
        return self._state.with_name("vault.sqlite-journal")

    def _remember_disk(self) -> None:
        """Note every file as it is at the moment of death, a half-written transaction's journal too."""
        self._dying = {str(f): f.read_bytes() for f in self._files() if f.is_file()}

    def _die(self) -> None:
        """Put the files back as they were at the moment of death: no rollback, no clean-up of Python's."""
        self.close()
        for file in self._files():
            file.unlink(missing_ok=True)
        for name, data in self._dying.items():
            Path(name).write_bytes(data)
        self.counts["death with an open transaction"] += str(self._journal) in self._dying
        self.vaults = self._open()

    # --- Claims

    def check(self) -> None:
        """Compare the ledger on disk with what was seen.

        Raises:
            BrokenClaimError: a claim was broken.
        """
        if self._broken is not None:
            raise self._broken
        rows = self._read_rows()
        if rows[: len(self._rows)] != self._rows:
            raise BrokenClaimError(UNDER, "a charge has vanished or changed")
        self.counts["charge"] += len(rows) - len(self._rows)
        self._rows = rows
        self._check_every_noise_is_charged(rows)
        self._check_one_charge(rows)
        self._check_caps(rows)

    def _check_every_noise_is_charged(self, rows: list[Row]) -> None:
        charged = Counter((charged_as(row), _event(row[6])) for row in rows)
        drawn = Counter((a.charged_as, e) for _, a, e in self._drawn.values())
        for key, count in drawn.items():
            if charged[key] < count:
                what = f"{count} noises drawn, {charged[key]} charged for {key[0][1:]}"
                raise BrokenClaimError(UNDER, what)

    def _check_one_charge(self, rows: list[Row]) -> None:
        """A request is charged at most once for each change of its patients."""
        most: Counter[Any] = Counter()
        for request, blocks in self._blocks.items():
            most[request[:-1]] += len(blocks)
        for key, count in Counter(map(charged_as, rows)).items():
            if count > most[key]:
                what = f"{count} charges for {key[1:]}, {most[key]} at most"
                raise BrokenClaimError(ONE, what)

    def _check_caps(self, rows: list[Row]) -> None:
        drawn = [(asked.study, event) for _, asked, event in self._drawn.values()]
        for digest, document in zip(digests(), documents(), strict=True):
            privacy = document.study.privacy
            events = [_privacy_event(row[6]) for row in rows if row[1] == digest]
            figure = pld_epsilon(events, privacy.delta)
            real = self._real([event for study, event in drawn if study == digest], privacy.delta)
            assert isinstance(privacy.epsilon, float)
            self._compare("study", figure, real, cap=privacy.epsilon)
        delta, order = self.hospital.config.policy.delta, self.vaults[0].ledger.filter_order
        figure = rdp_epsilon([_privacy_event(row[6]) for row in rows], delta, order=order)
        real = self._real([event for _, event in drawn], delta)
        self._compare("lifetime", figure, real, cap=self._budget)

    def _compare(self, what: str, figure: float, real: float, *, cap: float) -> None:
        if max(figure, real) > cap:
            raise BrokenClaimError(CAPS, f"{what} at {max(figure, real):.3f}, {cap} allowed")
        if real > figure:
            raise BrokenClaimError(UNDER, f"{what}: {figure:.4f} for {real:.4f}")

    def _real(self, events: list[Event], delta: float) -> float:
        """Return what was really drawn costs the patient who pays most: one who trains, or one who tests."""
        costs = []
        for place in (Decimal(0), TEST_FRACTION):
            mine = [e for e in events if e[4] <= place < e[5]]
            steps, cells = [], []
            for kind, rate, noise, count, *_ in mine:
                if kind == "discrete-gaussian":
                    cells += [float(noise)] * count
                else:
                    steps += [(float(rate), float(noise))] * count
            costs.append(self.reference(tuple(sorted(steps)), tuple(sorted(cells)), delta))
        return max(costs)

    def _check_charge_is_on_disk(self) -> None:
        asked = self.watch.asked
        assert asked is not None
        if asked.charged_as not in set(map(charged_as, self._read_rows())):
            self._fail(ORDER, f"rows were read for {asked.charged_as[1:]}")

    def _fail(self, claim: str, what: str) -> None:
        """Note a violation that was seen inside the vault, where an error would be caught."""
        self._broken = self._broken or BrokenClaimError(claim, what)

    def _read_rows(self) -> list[Row]:
        """Read all charges by a connection of our own."""
        with closing(sqlite3.connect(self._state)) as database:
            return database.execute(
                "SELECT id, study, kind, run, round, request, event FROM events ORDER BY id"
            ).fetchall()


@dataclass
class Campaign:
    """What many schedules found."""

    schedules: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, BrokenClaimError]] = field(default_factory=list)  # seed and claim


def run_schedules(
    seeds: Iterable[int],
    hospitals: Sequence[Template],
    folder: Path,
    watch: Watch,
    reference: Reference,
    *,
    until_first: bool = False,
) -> Campaign:
    """Run the schedules of these seeds, each at a hospital of its own, each to its first violation."""
    found = Campaign()
    for seed in seeds:
        template = hospitals[seed % len(hospitals)]
        machine = Machine(template, folder / f"schedule-{seed}", watch, reference)
        try:
            machine.run(random_schedule(seed))
        except BrokenClaimError as violation:
            found.violations.append((seed, violation))
        machine.close()
        shutil.rmtree(machine.hospital.folder)
        found.schedules += 1
        found.counts += machine.counts
        if until_first and found.violations:
            break
    return found


def charged_as(row: Row) -> tuple[Any, ...]:
    """Return what a row of the ledger says that it is for."""
    return (row[1], row[2]) if row[2] == "describe" else tuple(row[1:5])


@lru_cache(maxsize=64)
def _privacy_event(text: str) -> PrivacyEvent:
    return PrivacyEvent(**json.loads(text))


@lru_cache(maxsize=64)
def _event(text: str) -> Event:
    e = _privacy_event(text)
    rate, noise = Decimal(e.sampling_rate), Decimal(e.noise_multiplier)
    return (e.kind, rate, noise, e.steps, Decimal(e.patients_from), Decimal(e.patients_to))
