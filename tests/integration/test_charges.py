"""A round that a hospital answered twice, with two cohorts, is charged twice in the artefact too."""

from pathlib import Path

from lab import study_document
from solblom_models.accountant import pld_epsilon
from solblom_models.statement import Charge, site_events
from solblom_server.database import Database


def test_every_work_of_a_site_counts_and_the_same_work_once(tmp_path: Path) -> None:
    database = Database(tmp_path / "coordinator.sqlite")
    event = (
        '{"kind":"poisson-gaussian","noise_multiplier":"2.0000","sampling_rate":"1.0","steps":1}'
    )
    for work in ("first", "first", "second"):
        database.add_charge("run", 1, "north", work, event)
    assert len(database.charges("run")) == 2
    database.close()


def test_two_works_of_one_round_cost_more_than_one() -> None:
    event = study_document().round_event
    charges = [Charge(1, "north", event), Charge(1, "north", event)]
    assert len(site_events(charges)["north"]) == 2
    assert pld_epsilon([c.event for c in charges], 1e-5) > pld_epsilon([event], 1e-5)
