"""Rare diseases from HPO terms on published cases: federated beside pooled, local-only and public knowledge alone.

Four simulated hospitals are unequal groups of publications (half, a quarter, 15 and 10 per cent of them); whole
publications are held out. Every run is the product's own: vaults, sealed orders, ledgers, one exact sum, read out by
`solblom_models.phenotype.naive_bayes`. Only the rule which publications are tested is put in place of the nodes' own.

Without --final: another quarter of the development publications is tested for each seed. With --final: the publications
of the final test, cut off by HMAC before any setting was chosen; the settings were fixed before this was run. The seeds
then vary the hospitals and the noise.

Intervals resample publications, paired: every model ranks the same patients. A share is a mean over seeds first.

The files are not part of this repository: see `published_cases.py`.

GOALS: without privacy, federated top-1 and top-10 at most 2 points below pooled and above every local model; in every
recommended setting above public knowledge alone.
"""

import argparse
import datetime as dt
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tomli_w
from numpy.typing import NDArray
from published_cases import (
    CASES,
    HOSPITALS,
    Corpus,
    contract_of,
    is_test,
    read_corpus,
    write_hospitals,
)
from report import Goal, Table, finish, load_average

from solblom_client.cohorts import cohort
from solblom_models.artefact import load
from solblom_models.phenotype.cases import CaseUnits
from solblom_models.phenotype.net import Ranker
from solblom_models.ranking import Ranks, ranks_of
from solblom_models.study_document import resolve
from solblom_models.task import RankingTask, find_task
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import StudyDocument, load_study, sign_study
from solblom_protocol.sums.secure_sum import Roster, write_roster
from solblom_server.coordinator import Coordinator
from solblom_server.rounds.runs import start_run
from solblom_simulation.evaluation import read_any_site
from solblom_simulation.hospitals import (
    CASES as CASE_FILES,
)
from solblom_simulation.hospitals import (
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    node_files,
)
from solblom_simulation.ranking_baselines import fitted, joined
from solblom_simulation.ranking_evaluation import CaseData, groups_of

DELTA, SEEDS, NORM, BATCH = 1e-5, 5, 1.0308, 100.0
RESAMPLES = 2_000
GOAL_POINTS = 0.02


@dataclass(frozen=True)
class Arm:
    """One way to train. `epsilon` None: privacy off. `rounds` None: prototypes, one sum."""

    name: str
    epsilon: float | None
    shared: bool = False
    rounds: int | None = None  # of a linear ranker by FedAvg
    local_steps: int = 5
    learning_rate: float = 40.0


ARMS = (
    Arm("federated", None),
    Arm("federated, linear by FedAvg", None, rounds=20),
    *(
        Arm(f"epsilon {epsilon:g}, {'shared' if shared else 'local'} noise", epsilon, shared)
        for epsilon in (1.0, 3.0, 8.0)
        for shared in (False, True)
    ),
)


def study_tables(arm: Arm) -> dict[str, Any]:
    """Return study.toml of an arm."""
    hospitals = len(HOSPITALS)
    tables: dict[str, Any] = {
        "study": {
            "name": "published-cases",
            "title": "Rare diseases from published cases",
            "purpose": "A measurement",
            "legal_basis": ["Published cases, BSD-3: no approval needed"],
            "ends": "2099-12-31",
        },
        "task": {
            "name": "phenotype-ranking",
            "target": "disease",
            "model": {"kind": "prototypes" if arm.rounds is None else "linear"},
            "contract": "contract.toml",
        },
        "training": {
            "rounds": arm.rounds or 1,
            "local_steps": 1 if arm.rounds is None else arm.local_steps,
            "learning_rate": BATCH if arm.rounds is None else arm.learning_rate,
            "expected_batch_size": BATCH,
            "server_learning_rate": float(hospitals) if arm.rounds is None else 1.0,
        },
        "privacy": {
            "epsilon": "off" if arm.epsilon is None else arm.epsilon,
            "delta": DELTA,
            # Without privacy nothing is to be clipped: a softmax gradient has norm below sqrt(2) times the vector's.
            "clipping_norm": NORM if arm.rounds is None else 10.0,
            "noise": "shared" if arm.shared else "local",
        },
        "cohort": {"min_nodes": hospitals, "min_patients": 10, "quorum": hospitals},
        "evaluation": {"split": {"by": "publication", "test_fraction": 0.3}},
    }
    return tables | ({"secure_sum": {"roster": "roster.json"}} if arm.shared else {})


@contextmanager
def tested(*, final: bool, seed: int) -> Iterator[None]:
    """Put the bench's rule which publications are tested in place of the nodes' own."""

    def rule(key: bytes, named: str, fraction: float) -> bool:
        kind, _, publication = named.partition("\0")
        if kind != "publication":
            raise ValueError("a case without a publication")
        return is_test(publication, final=final, seed=seed)

    with patch.object(cohort, "is_test_patient", rule):
        yield


def run_arm(
    folder: Path, corpus: Corpus, files: dict[str, Path], arm: Arm, seed: int
) -> tuple[StudyDocument, Ranker, list[CaseData]]:
    """Run one arm through real vaults; return its study, its model, and the hospitals' patients."""
    home = folder / "home"
    policy = SimulationPolicy(
        epsilon_budget=100.0,
        study_epsilon=arm.epsilon or 3.0,
        delta=DELTA,
        allow_privacy_off=arm.epsilon is None,
        shared_noise=arm.shared,
        alone_epsilon=100.0,
    )
    create_federation(home, seed=seed, tables=files, policy=policy, kind=CASE_FILES)
    study = home / "studies" / "study.toml"
    study.parent.mkdir()
    study.write_text(tomli_w.dumps(study_tables(arm)).replace('"2099-12-31"', "2099-12-31"))
    (study.parent / "contract.toml").write_text(tomli_w.dumps(contract_of(corpus)))
    if arm.shared:
        (study.parent / "roster.json").write_bytes(
            write_roster(Roster.of(Coordinator.open(home).nodes()))
        )
    document = resolve(*load_study(study))
    envelope = sign_study(document, read_signing_key(home / "researcher" / "researcher.key"))
    approve_everywhere(home, envelope, seed=seed, now=dt.datetime.now(dt.UTC))
    run = start_run(home, envelope, transport_name="local", now=dt.datetime.now(dt.UTC))
    net = load(run.path).net
    sites = [read_any_site(node, document) for node in node_files(home)]
    if not isinstance(net, Ranker):
        raise TypeError("the model is no ranker")
    return document, net, [site for site in sites if isinstance(site, CaseData)]


def ranks(document: StudyDocument, net: Ranker, units: CaseUnits) -> Ranks:
    """Return the rank of each patient's disease."""
    task = find_task(document.study.task.name)
    if not isinstance(task, RankingTask):
        raise TypeError(task.name)
    return ranks_of(task.rankings(net, units), units.labels)


def one_seed(corpus: Corpus, *, final: bool, seed: int) -> tuple[dict[str, Ranks], CaseUnits]:
    """Return ranks by model, each over the same test patients in the same order, and those patients."""
    found: dict[str, Ranks] = {}
    with (
        tempfile.TemporaryDirectory(prefix="solblom-bench-") as name,
        tested(final=final, seed=seed),
    ):
        files = write_hospitals(Path(name) / "cases", corpus, final=final, seed=seed)
        for number, arm in enumerate(ARMS):
            folder = Path(name) / f"arm-{number}"
            folder.mkdir()
            document, net, sites = run_arm(folder, corpus, files, arm, seed)
            test = joined([site.test for site in sites])
            found[arm.name] = ranks(document, net, test)
            if arm.epsilon is None and arm.rounds is None:
                found |= baselines(document, sites, test)
            print(f"seed {seed}, {arm.name}: top-1 {(found[arm.name] == 1).mean():.3f}", flush=True)
    return found, test


def baselines(document: StudyDocument, sites: list[CaseData], test: CaseUnits) -> dict[str, Ranks]:
    """Return the ranks of public knowledge alone, of each hospital's own model, and of pooled models."""
    task = find_task(document.study.task.name)

    def fresh(kind: str) -> Ranker:
        model = {"kind": kind} | ({"hidden": 64} if kind == "mlp" else {})
        table = document.study.task.model_copy(update={"model": model})
        study = document.study.model_copy(update={"task": table})
        net = task.build(document.model_copy(update={"study": study}))
        if not isinstance(net, Ranker):
            raise TypeError("no ranker")
        return net

    pooled = joined([site.training for site in sites])
    found = {"public knowledge": ranks(document, fresh("linear"), test)}
    for site in sites:
        net = fitted(fresh("prototypes"), site.training)
        found[f"local: {site.site}"] = ranks(document, net, test)
    own = [ranks(document, fitted(fresh("prototypes"), s.training), s.test) for s in sites]
    found["local, each on its own patients"] = np.concatenate(own)
    found["pooled"] = ranks(document, fitted(fresh("prototypes"), pooled), test)
    for kind in ("linear", "mlp"):
        found[f"pooled, {kind}"] = ranks(document, fitted(fresh(kind), pooled), test)
    return found


def measures(found: Ranks) -> NDArray[np.float64]:
    """Return top-1, top-5, top-10 and reciprocal rank of each patient, shape (4, N)."""
    return np.array([found == 1, found <= 5, found <= 10, 1.0 / found], dtype=np.float64)


@dataclass
class Outcome:
    """All seeds' figures by model: a weight for each (seed, patient), and the patient's publication."""

    values: dict[str, list[NDArray[np.float64]]]
    groups: list[list[str]]

    def mean(self, name: str) -> NDArray[np.float64]:
        """Return the mean over seeds of the four figures."""
        return np.mean([part.mean(axis=1) for part in self.values[name]], axis=0)

    def difference(self, name: str, other: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean differences, shape (4,), and resampled ones, shape (RESAMPLES, 4): publications are drawn."""
        parts = [a - b for a, b in zip(self.values[name], self.values[other], strict=True)]
        names = sorted({group for groups in self.groups for group in groups})
        place = {group: index for index, group in enumerate(names)}
        sums, counts = np.zeros((len(parts), 4, len(names))), np.zeros((len(parts), len(names)))
        for index, (part, groups) in enumerate(zip(parts, self.groups, strict=True)):
            where = np.array([place[group] for group in groups])
            counts[index] = np.bincount(where, minlength=len(names))
            for row in range(4):
                sums[index, row] = np.bincount(where, weights=part[row], minlength=len(names))
        generator = np.random.default_rng(7)
        drawn = generator.multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES
        )
        by_seed = (
            np.einsum("srg,bg->bsr", sums, drawn)
            / np.maximum(np.einsum("sg,bg->bs", counts, drawn), 1)[:, :, None]
        )
        return np.mean([part.mean(axis=1) for part in parts], axis=0), by_seed.mean(axis=1)


def text(outcome: Outcome, name: str, other: str, row: int) -> str:
    """Return a paired difference in points with its 95 % interval."""
    value, drawn = outcome.difference(name, other)
    low, high = np.quantile(drawn[:, row], [0.025, 0.975])
    return f"{100 * value[row]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def main() -> None:
    """Run all seeds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--final", action="store_true", help="the final test publications")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    corpus = read_corpus()
    if corpus is None:
        raise SystemExit(f"skipped: {CASES} does not name the published cases")
    load_at_start = load_average()
    outcome, patients = Outcome({}, []), []
    for seed in range(options.seeds):
        found, test = one_seed(corpus, final=options.final, seed=seed)
        outcome.groups.append(groups_of(test))
        patients.append(len(test.ids))
        for name, found_ranks in found.items():
            outcome.values.setdefault(name, []).append(measures(found_ranks))
    report(outcome, corpus, patients, load_at_start, options)


def report(
    outcome: Outcome,
    corpus: Corpus,
    patients: list[int],
    load_at_start: float,
    options: argparse.Namespace,
) -> None:
    """Write tables and goals."""
    names = list(outcome.values)
    rows = [(name, *(f"{value:.3f}" for value in outcome.mean(name))) for name in names]
    private = [arm.name for arm in ARMS if arm.epsilon is not None]
    over = [
        (name, *(text(outcome, name, "public knowledge", row) for row in range(4)))
        for name in [arm.name for arm in ARMS]
    ]
    beside = [
        (name, *(text(outcome, "federated", name, row) for row in range(4)))
        for name in names
        if name.startswith(("pooled", "local", "federated, "))
    ]
    columns = ("top-1", "top-5", "top-10", "MRR")
    which = "final test" if options.final else "development"
    finish(
        "rare_disease" if options.final else "rare_disease_development",
        measures=f"ranked diseases on {which} publications",
        settings={"delta": DELTA, "publications": which, "hospitals": HOSPITALS},
        seeds=range(options.seeds),
        tables=[
            Table(f"Mean over seeds, {which}", ("model", *columns), tuple(rows)),
            Table("Above public knowledge alone, points [95 %]", ("model", *columns), tuple(over)),
            Table("Federated without privacy above", ("model", *columns), tuple(beside)),
        ],
        goals=goals(outcome, private),
        notes=[
            f"{len(corpus.names)} diseases, {len(corpus.cases)} cases of {len(corpus.publications)} publications; "
            f"{min(patients)} to {max(patients)} tested patients a seed.",
            "Public knowledge is curated partly from these very papers, which flatters it and all that starts from it.",
        ],
        results={
            "means": {name: outcome.mean(name).tolist() for name in names},
            "patients": patients,
        },
        load_at_start=load_at_start,
        out=options.json,
    )


def goals(outcome: Outcome, private: list[str]) -> list[Goal]:
    """Return the issue's goals beside what was found."""
    federated, found = outcome.mean("federated"), []
    for row, measure in ((0, "top-1"), (2, "top-10")):
        gap = outcome.mean("pooled")[row] - federated[row]
        best = max(outcome.mean(n)[row] for n in outcome.values if n.startswith("pooled"))
        local = max(outcome.mean(n)[row] for n in outcome.values if n.startswith("local"))
        found += [
            Goal(f"{measure}, pooled minus federated", "<= 2 points", f"{100 * gap:.2f}", bool(gap <= GOAL_POINTS)),
            Goal(
                f"{measure}, best pooled model minus federated", "<= 2 points",
                f"{100 * (best - federated[row]):.2f}", bool(best - federated[row] <= GOAL_POINTS),
            ),
            Goal(
                f"{measure}, above every local model", "> 0 points",
                f"{100 * (federated[row] - local):.2f}", bool(federated[row] > local),
            ),
        ]  # fmt: skip
    for name in ["federated", *private]:
        value, _ = outcome.difference(name, "public knowledge")
        found.append(
            Goal(f"{name}, top-1 above public knowledge", "> 0 points", f"{100 * value[0]:+.1f}", bool(value[0] > 0))
        )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
