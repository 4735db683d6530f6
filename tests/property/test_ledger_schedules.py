"""Random schedules of death, replay, restart, changed patients and rival coordinators: the ledger holds.

Few schedules here, with seeds of their own; `bench/ledger_schedules.py` runs ten thousand.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schedules.machine import Cells, Machine, Steps, run_schedules
from schedules.mutants import MUTANTS, Mutant
from schedules.plan import Action, Template, folder_in_memory, templates
from schedules.watch import POINTS, Trap, watched
from solblom_models.accountant import pld_epsilon
from solblom_protocol.studies.privacy_event import PrivacyEvent, exact_decimal

SEEDS = range(1_000_000, 1_000_020)
SEEDS_OF_A_HUNT = range(2_000_000, 2_000_300)

TRAPS = st.builds(Trap, st.sampled_from(POINTS), st.integers(1, 3), st.booleans())
ORDERS = st.builds(
    Action,
    st.sampled_from(["order", "order", "order", "replay"]),
    study=st.integers(0, 2),
    run=st.integers(0, 1),
    asks=st.sampled_from(["train", "train", "train", "evaluate", "describe"]),
    new_round=st.booleans(),
    model=st.integers(0, 1),
    handle=st.integers(0, 1),
    number=st.integers(0, 4),
    trap=st.none() | TRAPS,
)
EVENTS = st.builds(
    Action,
    st.sampled_from(["cohort", "restart", "look", "back-up", "roll-back"]),
    number=st.integers(0, 4),
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A place for hospitals."""
    with folder_in_memory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def hospitals(folder: Path) -> tuple[Template, ...]:
    """Hospitals that have approved three studies, to be copied."""
    return templates(folder)


def figure(steps: Steps, cells: Cells, delta: float) -> float:
    """The product's own accountant; the bench compares with separate code."""
    events = [
        PrivacyEvent("poisson-gaussian", exact_decimal(rate), f"{noise:.4f}", 1)
        for rate, noise in steps
    ]
    events += [PrivacyEvent("discrete-gaussian", "1", f"{noise:.4f}", 1) for noise in cells]
    return pld_epsilon(events, delta)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(actions=st.lists(ORDERS | EVENTS, min_size=2, max_size=14))
def test_no_schedule_under_charges_repeats_noise_or_passes_a_cap(
    hospitals: tuple[Template, ...], folder: Path, actions: list[Action]
) -> None:
    with watched() as watch:
        machine = Machine(hospitals[len(actions) % 2], folder / "chosen", watch, figure)
        try:
            machine.run(actions)
        finally:
            machine.close()
            shutil.rmtree(folder / "chosen")


def test_no_seeded_schedule_under_charges_repeats_noise_or_passes_a_cap(
    hospitals: tuple[Template, ...], folder: Path
) -> None:
    with watched() as watch:
        found = run_schedules(SEEDS, hospitals, folder, watch, figure)
    assert found.violations == []
    deaths = sum(count for kind, count in found.counts.items() if kind.startswith("death: "))
    assert deaths > 10
    assert found.counts["train: worked on"] > 20
    assert found.counts["evaluate: worked on"] > 3
    assert found.counts["describe: worked on"] > 0
    assert found.counts["reply: the same bytes again"] > 3


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_schedules_find_a_ledger_that_is_broken(
    hospitals: tuple[Template, ...], folder: Path, mutant: Mutant
) -> None:
    with watched() as watch, mutant.applied():
        found = run_schedules(SEEDS_OF_A_HUNT, hospitals, folder, watch, figure, until_first=True)
    assert len(found.violations) == 1
    assert found.violations[0][1].claim in mutant.claims
