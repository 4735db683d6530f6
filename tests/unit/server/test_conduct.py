"""A ServerApp that fails on something unforeseen says so, and keeps the trace where a person finds it."""

import datetime as dt
from pathlib import Path

import pytest

from network_lab import NetworkLab
from solblom_server.rounds import conduct
from solblom_server.transports.grids.local import LocalGrid


def test_the_trace_of_an_unforeseen_failure_stands_where_the_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower keeps a ServerApp's words in its memory; they end with it."""
    lab = NetworkLab(tmp_path / "home", sites=("north",))
    lab.create()
    try:
        run = lab.start_run("network")

        def fail(*about: object) -> None:
            raise NameError("a name that nobody gave")

        monkeypatch.setattr(conduct, "_couriers", fail)
        with pytest.raises(NameError):
            conduct.conduct_over_network(lab.home, run, LocalGrid({}))
        row = lab.database.run(run)
        assert row.status == "stopped"
        assert row.reason == f"SB-508: NameError; the trace stands in {conduct.TRACES}"
        kept = (lab.home / conduct.TRACES).read_text(encoding="utf-8")
        assert "a name that nobody gave" in kept
        assert kept.startswith(str(dt.datetime.now(dt.UTC).year))
    finally:
        lab.close()
