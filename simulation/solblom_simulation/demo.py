"""The demo: every step that the three users would take, one after another, on one machine."""

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solblom_client.approvals.summary import ApprovalSummary
from solblom_client.slides.bags import MadeBags
from solblom_models.study_document import resolve
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.keys.key_files import read_signing_key, write_new
from solblom_protocol.studies.study import load_study, sign_study
from solblom_protocol.sums.secure_sum import Roster, write_roster
from solblom_server.coordinator import Coordinator
from solblom_server.rounds.run_report import run_report
from solblom_server.rounds.runs import FinishedRun, start_run
from solblom_server.settings import free_port
from solblom_simulation.demo_histology import Heatmaps, draw_heatmaps, prepare_slides
from solblom_simulation.hospitals import (
    SimulationPolicy,
    approve_everywhere,
    create_federation,
)
from solblom_simulation.scenarios import SCENARIOS, Scenario
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import load_trust
from solblom_verify.wording import counted, format_delta

DELTA = 1e-5
HOSPITALS = 4
TRANSPORTS = {"local": "local", "files": "simulated-files", "network": "simulated-network"}
"""The demo's transports, by the name that its user types."""
STARTING = {
    "files": "Starting four processes, one a hospital; orders and replies travel as sealed files",
    "network": "Starting the coordinator's service, and vault and link of each hospital; "
    "orders and replies travel sealed, over TLS, on loopback",
}


@dataclass(frozen=True)
class DemoSettings:
    """What the demo's user may choose. `epsilon` None means privacy off."""

    home: Path
    scenario: Scenario = SCENARIOS["heart"]
    rounds: int = 10
    epsilon: float | None = 3.0
    seed: int = 20261122
    transport: str = "local"  # or files, or network
    shared_noise: bool = False  # each hospital adds a share, and only the sum is opened


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo leaves."""

    settings: DemoSettings
    run: FinishedRun
    approvals: dict[str, ApprovalSummary]
    report: dict[str, Any]
    checks: int  # how many checks the stand-alone verifier made, all passed
    seconds: float
    heatmaps: Heatmaps | None = None


def run_demo(
    settings: DemoSettings, *, clock: Callable[[], dt.datetime], say: Callable[[str], None]
) -> DemoOutcome:
    """Set up hospitals, write, sign, approve and run a study; return what came out.

    The clock is asked at each step: painting slides takes minutes, and what is written then is newer than its start.

    Raises:
        ConfigurationError: SB-105 or SB-113.
    """
    started = time.monotonic()
    _check(settings)
    home = settings.home
    policy = SimulationPolicy(
        epsilon_budget=max(8.0, 3 * (settings.epsilon or 0.0)),
        study_epsilon=max(3.0, settings.epsilon or 0.0),  # room for a second study of epsilon 3
        delta=DELTA,
        allow_privacy_off=settings.epsilon is None,
        shared_noise=settings.shared_noise,
    )
    study = _write_study(settings, clock())
    scenario = settings.scenario
    if scenario.drawing:
        say(scenario.drawing)
    files = scenario.files(home / "generated", study.parent / "contract.toml", settings.seed)
    say("Setting up a coordinator and four hospitals")
    create_federation(
        home,
        seed=settings.seed,
        tables=files,
        policy=policy,
        address=f"127.0.0.1:{free_port()}" if settings.transport == "network" else None,
        kind=scenario.kind,
    )
    say("Signing the study")
    envelope = _sign_study(settings, study)
    made: dict[str, MadeBags] = {}
    if scenario.kind.features is not None:
        say("Each hospital cuts its slides into tiles and encodes them; images stay where they are")
        made = prepare_slides(home, resolve(*load_study(study)), say=say)
    approvals = approve_everywhere(home, envelope, seed=settings.seed, now=clock())
    for site, summary in approvals.items():
        say(f"{site} approved the study for {summary.training_patients} patients")
    if settings.transport in STARTING:
        say(STARTING[settings.transport])
    run = start_run(home, envelope, transport_name=TRANSPORTS[settings.transport], now=clock())
    report = run_report(home, run.run)
    checks = _verify(home, run)
    heatmaps = draw_heatmaps(home, run.path, made, now=clock(), say=say) if made else None
    seconds = time.monotonic() - started
    return DemoOutcome(settings, run, approvals, report, checks, seconds, heatmaps)


def demo_json(outcome: DemoOutcome) -> dict[str, Any]:
    """Return the outcome as `solblom.demo/1`."""
    evaluation = outcome.run.evaluation or {"sites": [], "all": {}}
    return {
        "run": outcome.run.run,
        "task": outcome.settings.scenario.kind.task,
        "transport": outcome.settings.transport,
        "noise": "shared" if outcome.settings.shared_noise else "local",
        "rounds": outcome.settings.rounds,
        "seconds": round(outcome.seconds, 2),
        "simulation": True,
        "model": {
            "ref": outcome.run.ref,
            "digest": outcome.run.digest,
            "path": str(outcome.run.path),
            "verified": True,
        },
        "sites": [
            {
                "site": site["site"],
                "patients": site["training_patients"],
                "test_patients": site["test_patients"],
                "epsilon": outcome.report["epsilon"][site["site"]],
                "delta": format_delta(DELTA),
                "metrics": site["metrics"],
            }
            for site in evaluation["sites"]
        ],
        "metrics": evaluation["all"],
        "note": evaluation.get("reason", evaluation.get("note", "")),
        **({} if outcome.heatmaps is None else {"heatmaps": outcome.heatmaps.as_json()}),
    }


def _verify(home: Path, run: FinishedRun) -> int:
    """Verify the model as a steward would, with the stand-alone verifier; return the number of checks.

    Raises:
        IntegrityError: SB-401.
    """
    verdict = verify_artefact(
        run.path, load_trust(home / "trust.json"), now=dt.datetime.now(dt.UTC)
    )
    if not verdict.ok:
        failed = next(check for check in verdict.checks if not check.ok)
        raise IntegrityError("SB-401", f"{run.ref}: {failed.name}: {failed.reason}")
    return len(verdict.checks)


def _check(settings: DemoSettings) -> None:
    if settings.epsilon is not None and not 0 < settings.epsilon <= 100:
        raise ConfigurationError(
            "SB-105", f"--epsilon is {settings.epsilon:g}; it must lie above 0 and at most 100"
        )
    if settings.shared_noise and settings.epsilon is None:
        raise ConfigurationError("SB-103", "--shared-noise and --no-privacy exclude each other")
    fixed = settings.scenario.rounds
    if fixed is not None and settings.rounds != fixed:
        raise ConfigurationError(
            "SB-103",
            f"--rounds is {settings.rounds}; the demo {settings.scenario.name} adds up in {counted(fixed, 'round')}",
            "Leave --rounds out",
        )
    if not 1 <= settings.rounds <= 1000:
        raise ConfigurationError("SB-103", f"--rounds is {settings.rounds}; it must be 1 to 1000")


def _write_study(settings: DemoSettings, now: dt.datetime) -> Path:
    scenario = settings.scenario
    values = TemplateValues(
        name=scenario.study,
        # The end of next year: the same day all year long, so that the same work stays the same work.
        ends=dt.date(now.year + 1, 12, 31),
        rounds=settings.rounds,
        epsilon=settings.epsilon,
        delta=DELTA,
        seed=settings.seed,
        tuning=scenario.tuning,
        shared_by=HOSPITALS if settings.shared_noise else None,
        hospitals=HOSPITALS,
        patients=scenario.patients,
        min_patients=scenario.min_patients,
    )
    study = write_template(settings.home / "studies" / scenario.study, scenario.kind.task, values)
    for path in (study, study.parent / "contract.toml"):
        text = path.read_text(encoding="utf-8")
        for placeholder, words in scenario.wording:
            text = text.replace(placeholder, words)
        path.write_text(text, encoding="utf-8")
    return study


def _sign_study(settings: DemoSettings, study: Path) -> bytes:
    if settings.shared_noise:
        nodes = Coordinator.open(settings.home).nodes()
        write_new(study.parent / "roster.json", write_roster(Roster.of(nodes)), mode=0o644)
    document = resolve(*load_study(study))
    key = read_signing_key(settings.home / "researcher" / "researcher.key")
    envelope = sign_study(document, key)
    study.with_suffix(".signed.json").write_bytes(envelope)
    return envelope
