"""Schedules: what a coordinator, a hospital's staff and bad luck may do to a node, drawn at random."""

import copy
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lab import Clock, LabHospital, study_document
from schedules.watch import PASSED_OFTEN, POINTS, SPLIT_KEY, Trap
from solblom_client.policy import load_node_config
from solblom_protocol.messages.layout import Layout
from solblom_protocol.studies.study import StudyDocument
from solblom_server.rounds.rounds import initial_model

BUDGETS = (
    1.75,
    3.0,
)  # of a lifetime: one that ends first, one under which the studies' own caps end first
ASKED = ((65, 20, 15), (75, 25, 0), (100, 0, 0))  # how often which order, by study
UNREADABLE = 4  # the cohort whose table is too short for any training


@dataclass(frozen=True)
class Action:
    """One step of a schedule. Members that a kind does not need are ignored."""

    kind: str  # order, replay, cohort, restart, look, back-up or roll-back
    study: int = 0
    run: int = 0
    asks: str = "train"  # or evaluate, describe
    new_round: bool = False
    model: int = 0
    handle: int = 0  # which of the two open vaults answers
    number: int = 0  # which cohort; how many orders back
    trap: Trap | None = None


def folder_in_memory() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder, in memory where the system has such a place: syncing is not the matter here."""
    memory = Path("/dev/shm")  # noqa: S108 - TemporaryDirectory makes a private folder inside
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    return tempfile.TemporaryDirectory(dir=memory if usable else None)


@lru_cache(maxsize=1)
def documents() -> tuple[StudyDocument, ...]:
    """Return three studies: full batch with releases, sampled with a release, sampled without any."""
    few: dict[str, object] = {"min_patients": 5}
    return (
        study_document(
            study={"name": "full-batch"},
            training={"rounds": 4},
            privacy={"epsilon": 2.0, "sampling_rate": 1.0},
            evaluation={"releases": 2},
            table_one={"epsilon": 0.5, "variables": ["age", "smoker", "ill"]},
            cohort=few,
        ),
        study_document(
            study={"name": "halves"},
            training={"rounds": 5, "local_steps": 2},
            privacy={"epsilon": 1.0, "sampling_rate": 0.5},
            evaluation={"releases": 1},
            cohort=few,
        ),
        study_document(
            study={"name": "quarters"},
            training={"rounds": 3},
            privacy={"epsilon": 1.5, "sampling_rate": 0.25},
            cohort=few,
        ),
    )


@lru_cache(maxsize=1)
def digests() -> tuple[str, ...]:
    """Return the studies' digests; each takes a millisecond."""
    return tuple(document.digest for document in documents())


@lru_cache(maxsize=8)
def start(study: int) -> tuple[bytes, Layout]:
    return initial_model(documents()[study])


def random_schedule(seed: int) -> list[Action]:
    """Return eight to sixteen steps; the same ones for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - schedules, no secrets
    kinds = ("order", "replay", "cohort", "restart", "look", "back-up", "roll-back")
    weights = (50, 14, 14, 6, 6, 5, 5)
    actions: list[Action] = []
    study, run = rng.randrange(3), rng.randrange(2)
    for _ in range(rng.randint(8, 16)):
        if (
            rng.random() < 0.4
        ):  # often the same run again: what goes wrong, goes wrong between two orders
            study, run = rng.randrange(3), rng.randrange(2)
        action = Action(
            kind=rng.choices(kinds, weights)[0],
            study=study,
            run=run,
            asks=rng.choices(("train", "evaluate", "describe"), ASKED[study])[0],
            new_round=rng.random() < 0.5,
            model=int(rng.random() < 0.15),
            handle=rng.randrange(2),
            number=rng.randrange(5),
            trap=_random_trap(rng),
        )
        actions.append(action)
    return actions


def _random_trap(rng: random.Random) -> Trap | None:
    point, nth, dice = rng.choice(POINTS), rng.randint(1, 4), rng.random()
    if dice > 0.45:
        return None
    return Trap(point, nth if point in PASSED_OFTEN else 1, kills=dice < 0.35)


def run_name(study: int, run: int) -> str:
    """Two coordinators with one key, each with a run of its own in every study."""
    return f"{documents()[study].study.study.name}-{'ab'[run]}"


def templates(folder: Path) -> tuple["Template", ...]:
    """Return a hospital for each lifetime budget."""
    return tuple(Template(folder / f"template-{budget}", budget) for budget in BUDGETS)


class Template:
    """A hospital that has approved the three studies, made once and copied for every schedule."""

    def __init__(self, folder: Path, budget: float) -> None:
        self.budget = budget
        policy = f"epsilon_budget = {budget}\nmin_patients = 5\nstudy_epsilon = 3.0"
        self.hospital = LabHospital(folder, patients=24, policy=policy)
        # Who is a test patient must not change from one run of the same seeds to the next.
        (self.hospital.config.state / "keys" / "split.key").write_bytes(SPLIT_KEY)
        for document in documents():
            self.hospital.approve(document)
        self.hospital.vault.close()
        self.cohorts = [self._cohort(number) for number in range(5)]

    def copy_to(self, folder: Path) -> LabHospital:
        """Return a copy with files of its own."""
        shutil.copytree(self.hospital.folder, folder)
        hospital = copy.copy(self.hospital)
        hospital.folder, hospital.clock = folder, Clock()
        hospital.config = load_node_config(folder)
        return hospital

    def _cohort(self, number: int) -> tuple[bytes, bytes]:
        """Return table and consent: everybody, some withdrawn, a value corrected, or too short a table."""
        hospital = self.hospital
        rows = [dict(row) for row in hospital.rows]
        if number == 3:
            for row in rows:
                row["smoker"] = "1"
        hospital.write_rows(rows[:2] if number == UNREADABLE else rows)
        withdrawn = rows[: {1: 3, 2: 5}.get(number, 0)]
        hospital.write_consent([f"{row['patient_id']},withdrawn," for row in withdrawn])
        names = ("patients.csv", "consent.csv")
        patients, consent = ((hospital.folder / name).read_bytes() for name in names)
        hospital.write_rows(hospital.rows)
        hospital.write_consent([])
        return patients, consent
