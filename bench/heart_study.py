"""Heart-disease studies over the real product path, as benches need them: federation, study, approval, run.

Nothing is mocked: sealed orders, vaults, ledgers, Opacus, registry. The study comes from the product's
template with the product's recipe; only what a bench varies is changed.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from sklearn.linear_model import LogisticRegression

from solblom_client.approval import ApprovalSummary
from solblom_models import accountant
from solblom_models.accountant import calibrate_noise
from solblom_models.study_document import resolve
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.key_files import read_signing_key
from solblom_protocol.study import StudyDocument, load_study, sign_study
from solblom_server import rounds
from solblom_server.checkpoints import write_checkpoint
from solblom_server.coordinator import Coordinator
from solblom_server.optimisers import ServerState
from solblom_server.rounds import PROGRESS
from solblom_server.runs import FinishedRun, resume_run, start_run
from solblom_simulation import evaluation
from solblom_simulation.baselines import Features, Labels, fit_tuned
from solblom_simulation.demo import suggested_learning_rate
from solblom_simulation.evaluation import SiteData, read_site
from solblom_simulation.federation import LocalTransport
from solblom_simulation.hospitals import (
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    heart_tables,
    node_files,
)

# Far away and fixed: the study's digest, and with it the noise, must not depend on today's date.
STUDY_ENDS = dt.date(2099, 12, 31)
TEMPLATE_BATCH = 150  # expected_batch_size of the template, at sampling rate 1


@dataclass(frozen=True)
class Setting:
    """What a bench varies. `epsilon` None: privacy off."""

    epsilon: float | None
    delta: float = 1e-5
    rounds: int = 10
    sampling_rate: float = 1.0
    local_steps: int = 1

    @property
    def name(self) -> str:
        """A short name for tables."""
        if self.epsilon is None:
            return "privacy off"
        return f"epsilon {self.epsilon:g}, delta {self.delta:g}"


class Killed(Exception):  # noqa: N818 - not an error, a bench's way to stop a run
    """The coordinator's process died here."""


@dataclass(frozen=True)
class ReadyStudy:
    """A federation whose hospitals have approved a study."""

    home: Path
    document: StudyDocument
    envelope: bytes
    approvals: dict[str, ApprovalSummary]

    def run(self) -> FinishedRun:
        """Run the study to its end over the local transport."""
        return start_run(self.home, self.envelope, transport_name="local", now=now())

    def sites(self) -> list[SiteData]:
        """Return each hospital's training and test patients by the node's own rules, sorted by site."""
        return [read_site(node, self.document) for node in node_files(self.home)]


def now() -> dt.datetime:
    """Return the present moment in UTC."""
    return dt.datetime.now(dt.UTC)


def prepare(
    home: Path, setting: Setting, *, seed: int, tables: dict[str, Path] | None = None
) -> ReadyStudy:
    """Create hospitals; write, sign and approve a study. The seed decides splits, keys and noise."""
    policy = SimulationPolicy(
        epsilon_budget=max(8.0, 3 * (setting.epsilon or 0.0)),
        study_epsilon=setting.epsilon or 3.0,
        delta=setting.delta,
        allow_privacy_off=setting.epsilon is None,
    )
    create_federation(home, seed=seed, tables=tables or heart_tables(), policy=policy)
    study = _write_study(home / "studies" / "bench", setting, seed)
    document = resolve(*load_study(study))
    key = read_signing_key(home / "researcher" / "researcher.key")
    envelope = sign_study(document, key)
    approvals = approve_everywhere(home, envelope, seed=seed, now=now())
    return ReadyStudy(home, document, envelope, approvals)


def _write_study(folder: Path, setting: Setting, seed: int) -> Path:
    noise = None
    if setting.epsilon is not None:
        noise = calibrate_noise(
            setting.epsilon,
            setting.delta,
            sampling_rate=setting.sampling_rate,
            steps=setting.rounds * setting.local_steps,
        )
    values = TemplateValues(
        name="bench",
        ends=STUDY_ENDS,
        rounds=setting.rounds,
        epsilon=setting.epsilon,
        delta=setting.delta,
        learning_rate=suggested_learning_rate(noise),
        seed=seed,
    )
    study = write_template(folder, "tabular-classification", values)
    batch = TEMPLATE_BATCH * setting.sampling_rate
    for old, new in (
        ("local_steps = 1", f"local_steps = {setting.local_steps}"),
        ("sampling_rate = 1.0", f"sampling_rate = {setting.sampling_rate}"),
        (f"expected_batch_size = {TEMPLATE_BATCH}", f"expected_batch_size = {batch:g}"),
    ):
        text = study.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise RuntimeError(f"the template no longer says `{old}` once")
        study.write_text(text.replace(old, new), encoding="utf-8")
    return study


def run_killed(ready: ReadyStudy, *, after: int, inside: int) -> str:
    """Kill the run after one round, resume it, kill it inside a later one, resume; return its id.

    Vaults are closed and opened from disk each time. Inside means: all hospitals have answered, and
    the coordinator has kept nothing of it.
    """

    def die_between(number: int, rounds: int, text: str) -> None:
        if number == after:
            raise Killed

    def die_inside(folder: Path, number: int, state: ServerState) -> None:
        if number == inside:
            raise Killed
        write_checkpoint(folder, number, state)

    token = PROGRESS.set(die_between)
    with suppress(Killed):
        ready.run()
    PROGRESS.reset(token)
    database = Coordinator.open(ready.home).database()
    run = database.runs()[0].id
    database.close()
    accountant._pld.cache_clear()
    with suppress(Killed), patch.object(rounds, "write_checkpoint", die_inside):
        resume_run(ready.home, run, now=now())
    accountant._pld.cache_clear()
    return resume_run(ready.home, run, now=now()).run


@contextmanager
def remembered_baselines() -> Iterator[Callable[..., LogisticRegression]]:
    """Let the run's own evaluation fit each baseline once per data: it is the same for every setting of a seed."""
    fitted: dict[tuple[bytes, bytes, int], LogisticRegression] = {}

    def fit_once(features: Features, labels: Labels, *, seed: int) -> LogisticRegression:
        key = (features.tobytes(), labels.tobytes(), seed)
        if key not in fitted:
            fitted[key] = fit_tuned(features, labels, seed=seed)
        return fitted[key]

    with patch.object(evaluation, "fit_tuned", fit_once):
        yield fit_once


@contextmanager
def no_evaluation() -> Iterator[None]:
    """Leave the run's own evaluation out, where its baselines would be thrown away."""
    with patch.object(LocalTransport, "evaluate", lambda *_: None):
        yield
