"""Studies over the real product path, as benches need them: federation, study, approval, run.

Heart disease unless a `Problem` says otherwise.
Nothing is mocked: sealed orders, vaults, ledgers, Opacus, registry. The study comes from the product's
template with the product's recipe; only what a bench varies is changed.
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from unittest.mock import patch

from sklearn.linear_model import LogisticRegression

from solblom_client.approvals.approval import ApprovalSummary
from solblom_models import accountant, presets, study_document, task
from solblom_models.aggregation.optimisers import ServerState
from solblom_models.artefact import load
from solblom_models.presets import DEFAULT_PRESET, Preset
from solblom_models.study_document import resolve
from solblom_models.tabular import task as tabular_task
from solblom_models.tabular.data import TableUnits, read_units
from solblom_models.tabular.table_file import Table
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.contracts.table import Contract
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies import study
from solblom_protocol.studies.study import StudyDocument, load_study, sign_study
from solblom_server.coordinator import Coordinator
from solblom_server.rounds import rounds
from solblom_server.rounds.checkpoints import write_checkpoint
from solblom_server.rounds.rounds import PROGRESS
from solblom_server.rounds.run_report import run_report
from solblom_server.rounds.runs import FinishedRun, resume_run, start_run
from solblom_simulation import table_evaluation
from solblom_simulation.baselines import Features, Labels, fit_tuned
from solblom_simulation.evaluation import read_site
from solblom_simulation.federation import LocalTransport
from solblom_simulation.hospitals import (
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    heart_tables,
    node_files,
)
from solblom_simulation.table_evaluation import Scores, SiteData

# Far away and fixed: the study's digest, and with it the noise, must not depend on today's date.
STUDY_ENDS = dt.date(2099, 12, 31)
TEMPLATE_BATCH = 150  # expected_batch_size of the template, at sampling rate 1
LOGISTIC = '{ kind = "logistic" }'


@dataclass(frozen=True)
class Problem:
    """What a study is about. `contract` None: the template's, of heart disease; target is its last column."""

    tables: dict[str, Path]
    contract: str | None = None
    target: str = "disease"
    batch: float = TEMPLATE_BATCH  # public divisor of every sum, at sampling rate 1


@dataclass(frozen=True)
class Setting:
    """What a bench varies. `epsilon` None: privacy off."""

    epsilon: float | None
    delta: float = 1e-5
    rounds: int | None = None  # None, here and below: the preset's
    sampling_rate: float | None = None
    local_steps: int | None = None
    preset: Preset = DEFAULT_PRESET
    model: str = LOGISTIC

    def as_preset(self) -> Preset:
        """Return the preset with this setting's rhythm."""
        return replace(
            self.preset,
            rounds=self.rounds or self.preset.rounds,
            sampling_rate=self.sampling_rate or self.preset.sampling_rate,
            local_steps=self.local_steps or self.preset.local_steps,
        )

    @property
    def name(self) -> str:
        """A short name for tables."""
        if self.epsilon is None:
            return "privacy off" + self._preset_and_model
        return f"epsilon {self.epsilon:g}, delta {self.delta:g}{self._preset_and_model}"

    @property
    def _preset_and_model(self) -> str:
        model = "" if self.model == LOGISTIC else ", perceptron"
        return ("" if self.preset == DEFAULT_PRESET else f", {self.preset.name}") + model


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
    home: Path, setting: Setting, *, seed: int, problem: Problem | None = None
) -> ReadyStudy:
    """Create hospitals; write, sign and approve a study. The seed decides splits, keys and noise."""
    policy = SimulationPolicy(
        epsilon_budget=max(8.0, 3 * (setting.epsilon or 0.0)),
        study_epsilon=setting.epsilon or 3.0,
        delta=setting.delta,
        allow_privacy_off=setting.epsilon is None,
    )
    problem = problem or Problem(heart_tables())
    create_federation(home, seed=seed, tables=problem.tables, policy=policy)
    file = _write_study(home / "studies" / "bench", setting, seed, problem)
    document = resolve(*load_study(file))
    key = read_signing_key(home / "researcher" / "researcher.key")
    envelope = sign_study(document, key)
    approvals = approve_everywhere(home, envelope, seed=seed, now=now())
    return ReadyStudy(home, document, envelope, approvals)


def _write_study(folder: Path, setting: Setting, seed: int, problem: Problem) -> Path:
    values = TemplateValues(
        name="bench",
        ends=STUDY_ENDS,
        preset=setting.as_preset(),
        epsilon=setting.epsilon,
        delta=setting.delta,
        patients=problem.batch,
        seed=seed,
    )
    file = write_template(folder, "tabular-classification", values)
    for old, new in (
        ('target = "disease"', f'target = "{problem.target}"'),
        (f"model = {LOGISTIC}", f"model = {setting.model}"),
    ):
        text = file.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise RuntimeError(f"the template no longer says `{old}` once")
        file.write_text(text.replace(old, new), encoding="utf-8")
    if problem.contract is not None:
        (folder / "contract.toml").write_text(problem.contract, encoding="utf-8")
    return file


def scratch_folder() -> Path | None:
    """Return a folder in memory, where there is one: federations live for seconds, and fsyncs wait for a disk."""
    memory = Path("/dev/shm")  # noqa: S108 - the files hold public data only
    return memory if memory.is_dir() else None


def federated_scores(run: FinishedRun, sites: list[SiteData]) -> list[Scores]:
    """Return the released model's scores of the test patients, by hospital."""
    model = load(run.path)
    return [model.task.scores(model.net, site.test) for site in sites]


def check_all_took_part(home: Path, run: FinishedRun) -> None:
    """Refuse a run in which a hospital was missing."""
    report = run_report(home, run.run)
    if any(len(r["results"]) != len(report["sites"]) for r in report["rounds"]):
        raise RuntimeError("a hospital was missing in a round")


def check_run(home: Path, run: FinishedRun, setting: Setting) -> None:
    """Refuse a run in which a hospital was missing, or that spent more than it promised."""
    check_all_took_part(home, run)
    report = run_report(home, run.run)
    spent = [float(epsilon) for epsilon in report["epsilon"].values()]
    if setting.epsilon is not None and max(spent) > setting.epsilon:
        raise RuntimeError("a run spent more than its epsilon")


def check_split(first: list[SiteData], now: list[SiteData]) -> None:
    """Refuse two settings of one seed that have different patients for training or for testing."""
    if [(s.site, s.test.ids, s.training.ids) for s in first] != [
        (s.site, s.test.ids, s.training.ids) for s in now
    ]:
        raise RuntimeError("settings of one seed have different test patients")


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

    with patch.object(table_evaluation, "fit_tuned", fit_once):
        yield fit_once


noise_once = cache(accountant.calibrate_noise)


@contextmanager
def remembered_reading() -> Iterator[None]:
    """Read tables, signed studies and tasks, and calibrate noise, once: no result changes, only the time."""
    rows: dict[tuple[str, str], TableUnits] = {}
    payloads: dict[
        int, tuple[StudyDocument, bytes]
    ] = {}  # keeps documents, so that ids stay theirs
    payload_of = StudyDocument.payload

    def read_once(table: Table, contract: Contract) -> TableUnits:
        genes = b"" if table.genes is None else table.genes.values.tobytes()
        text = hashlib.sha256(repr((table.ids, table.columns)).encode() + genes).hexdigest()
        key = (text, contract.model_dump_json())
        if key not in rows:
            rows[key] = read_units(table, contract)
        return rows[key]

    def payload_once(document: StudyDocument) -> bytes:
        if id(document) not in payloads:
            payloads[id(document)] = (document, payload_of(document))
        return payloads[id(document)][1]

    with (
        patch.object(tabular_task, "read_units", read_once),
        patch.object(StudyDocument, "payload", payload_once),
        patch.object(study, "parse_document", cache(study.parse_document)),
        patch.object(task, "entry_points", cache(entry_points)),
        patch.object(presets, "calibrate_noise", noise_once),
        patch.object(study_document, "calibrate_noise", noise_once),
    ):
        yield


@contextmanager
def no_evaluation() -> Iterator[None]:
    """Leave the run's own evaluation out, where its baselines would be thrown away."""
    with patch.object(LocalTransport, "evaluate", lambda *_: None):
        yield
