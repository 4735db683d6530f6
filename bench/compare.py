"""What does a comparison of two versions say, and do its paired intervals keep their promise?

**Coverage.** Two models see the same made-up patients: scores are normal, the ill lie a known distance higher, and the
models' errors are correlated. So the population's differences of AUROC, average precision and Brier score are known
(AUROC in closed form, the others from a million patients). In every repetition new patients are drawn, and the
product's paired bootstrap says between which values each difference lies. In one case patients come in families of
four.
Where the models are equally good, DeLong's and McNemar's tests are counted that say otherwise at 5 %.

**Heart disease.** Two versions of one study over the real product path, at epsilon 1 and 3: other noise, other
settings. Both artefacts are verified and given the same test patients, who took part in the training of neither.

GOAL: intervals hold the difference in at least 95 % of the repetitions, less three standard errors and the two percent
that percentile intervals are short of with 100 patients (`decision_metrics.patient_bootstrap`).

Run: OMP_NUM_THREADS=1 python bench/compare.py [--repeats 1000] [--seeds 5] [--picture FILE] [--out FILE]
"""

import argparse
import csv
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from heart_study import Setting, prepare, scratch_folder
from report import Goal, Table, finish, load_average

from solblom_models.artefact import load
from solblom_models.comparison.comparing import Settings, compare
from solblom_models.comparison.inputs import Given
from solblom_models.comparison.overlay import calibration_overlay
from solblom_models.comparison.pair import ScoredPair, Version
from solblom_models.comparison.paired import performance
from solblom_models.decision_metrics import Curve
from solblom_models.trusted import verified_model
from solblom_server.rounds.runs import FinishedRun

FIGURES = ("auroc", "auprc", "brier")
PREVALENCE, CORRELATION, POPULATION = 0.4, 0.8, 1_000_000
SEED, HEART_SEED = 20261129, 1
SHORT = 0.02  # of 95 %: what percentile intervals lack with few patients
EPSILONS = {"old": 1.0, "new": 3.0}


@dataclass(frozen=True)
class Case:
    """One population: how far ill and well lie apart for each model, and how patients are drawn."""

    patients: int
    old: float
    new: float
    family: int = 1

    @property
    def name(self) -> str:
        """A short name for tables."""
        families = "" if self.family == 1 else f", families of {self.family}"
        return f"{self.patients} patients, {self.old:g} against {self.new:g}{families}"


CASES = (
    Case(100, 1.2, 1.2),
    Case(400, 1.2, 1.2),
    Case(100, 1.2, 1.6),
    Case(400, 1.2, 1.6),
    Case(400, 1.2, 1.6, family=4),
)


def drawn(case: Case, generator: np.random.Generator, patients: int) -> ScoredPair:
    """Return new patients of a population; probabilities are calibrated for each model alone."""
    families = patients // case.family
    family = np.repeat(np.arange(families), case.family)
    ill = generator.random(families)[family] * 0.5 + generator.random(len(family)) * 0.5
    if case.family == 1:
        ill = generator.random(len(family))
    labels = (ill < PREVALENCE).astype(np.int64)
    shared = generator.normal(size=len(family))
    if case.family > 1:  # half of what both models get wrong runs in families
        shared = math.sqrt(0.5) * generator.normal(size=families)[family] + math.sqrt(0.5) * shared
    scores = []
    for distance in (case.old, case.new):
        own = generator.normal(size=len(family))
        noise = math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own
        logit = distance * (labels * distance + noise) - distance**2 / 2
        scores.append(1 / (1 + np.exp(-(logit + math.log(PREVALENCE / (1 - PREVALENCE))))))
    unit = "patient" if case.family == 1 else "family"
    ids = tuple(str(number) for number in range(len(family)))
    return ScoredPair(ids, family, unit, labels, scores[0], scores[1])


def truth(case: Case) -> dict[str, float]:
    """Return the population's differences."""
    pair = drawn(case, np.random.default_rng(0), POPULATION)
    assert pair.labels is not None
    counts = np.ones(POPULATION)
    old, new = Curve(pair.labels, pair.old), Curve(pair.labels, pair.new)
    areas = [NormalDist().cdf(distance / math.sqrt(2)) for distance in (case.old, case.new)]
    return {
        "auroc": areas[1] - areas[0],
        "auprc": (new.average_precision(counts) or 0.0) - (old.average_precision(counts) or 0.0),
        "brier": float(
            np.mean((pair.new - pair.labels) ** 2) - np.mean((pair.old - pair.labels) ** 2)
        ),
    }


@dataclass(frozen=True)
class Coverage:
    """What came out over all repetitions of a case; widths are medians."""

    case: str
    truth: dict[str, float]
    held: dict[str, float]
    width: dict[str, float]
    delong: float | None
    mcnemar: float | None


def coverage(case: Case, *, repeats: int, resamples: int, number: int) -> Coverage:
    """Return how often intervals hold the truth."""
    known, generator = truth(case), np.random.default_rng([SEED, number])
    held = {figure: 0 for figure in FIGURES}
    widths: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    delong = mcnemar = shown = 0
    for repeat in range(repeats):
        pair = drawn(case, generator, case.patients)
        found = performance(pair, threshold=0.5, resamples=resamples, seed=repeat)
        assert found is not None
        assert found["reason"] is None
        for figure in FIGURES:
            _, low, high = found[figure]["difference"]
            held[figure] += low <= known[figure] <= high
            widths[figure].append(high - low)
        if case.family == 1:
            delong += found["delong_p"] is not None and found["delong_p"] < 0.05
            if found["mcnemar"]["p"] is not None:
                shown += 1
                mcnemar += found["mcnemar"]["p"] < 0.05
    return Coverage(
        case.name,
        {figure: round(value, 5) for figure, value in known.items()},
        {figure: held[figure] / repeats for figure in FIGURES},
        {figure: round(float(np.median(widths[figure])), 4) for figure in FIGURES},
        delong / repeats if case.family == 1 else None,
        mcnemar / shown if shown else None,
    )


def trained(home: Path, epsilon: float, seed: int) -> tuple[FinishedRun, dict[str, frozenset[str]]]:
    """Return a version, and each hospital's test patients."""
    ready = prepare(home, Setting(epsilon=epsilon), seed=seed)
    sites = {site.site: frozenset(site.test.ids) for site in ready.sites()}
    return ready.run(), sites


def test_table(home: Path, sites: dict[str, frozenset[str]], out: Path) -> Path:
    """Write the rows of these hospitals' test patients as one table."""
    header: list[str] = []
    rows: list[list[str]] = []
    for site, wanted in sorted(sites.items()):
        with (home / "sites" / site / "patients.csv").open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
            place = header.index("patient_id")
            rows += [line for line in lines if line[place] in wanted]
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return out


def version_of(run: FinishedRun, home: Path) -> Version:
    """Return a verified version."""
    folder, verdict = verified_model(str(run.path), home, None)
    return Version(
        load(folder), verdict.artefact or "", f"{verdict.name}@{verdict.version}", folder
    )


def heart(seed: int, picture: Path | None) -> list[dict[str, Any]]:
    """Return the comparison of two versions on all hospitals' test patients, and on each one's."""
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as scratch:
        folder, versions, tests = Path(scratch), [], []
        for name, epsilon in EPSILONS.items():
            run, sites = trained(folder / name, epsilon, seed)
            versions.append(version_of(run, folder / name))
            tests.append(sites)
        if tests[0] != tests[1]:
            raise RuntimeError("the versions have different test patients")
        groups = {"all": tests[0], **{site: {site: ids} for site, ids in tests[0].items()}}
        found = []
        for group, sites in groups.items():
            table = test_table(folder / "old", sites, folder / f"{group}.csv")
            made = compare(versions[0], versions[1], Given(data=table), Settings(), key=bytes(32))
            found.append({"seed": seed, "patients of": group, **_summary(made.body)})
            if group == "all" and picture is not None and isinstance(made.pair, ScoredPair):
                words = [f"epsilon {EPSILONS[which]:g}" for which in ("old", "new")]
                picture.write_bytes(calibration_overlay(made.pair, old=words[0], new=words[1]))
        return found


def _summary(body: dict[str, Any]) -> dict[str, Any]:
    keep = ("patients", "agreement", "flips", "performance")
    settings = {e["what"]: [e["old"], e["new"]] for e in body["differences_in_settings"]}
    return {name: body[name] for name in keep} | {"settings": settings}


def tables_of(covered: list[Coverage], hearts: list[dict[str, Any]]) -> list[Table]:
    """Return the tables of both parts."""
    rows = [
        (
            *(found.case, f"{found.truth['auroc']:+.4f}"),
            *(f"{found.held[figure]:.1%}" for figure in FIGURES),
            f"{found.width['auroc']:.4f}",
            "" if found.delong is None else f"{found.delong:.1%}",
            "" if found.mcnemar is None else f"{found.mcnemar:.1%}",
        )
        for found in covered
    ]
    head = ("case", "AUROC, true", "AUROC", "AUPRC", "Brier", "width", "DeLong", "McNemar")
    own = ("seed", "patients of", "n", "same class", "flips", "old", "new", "difference")
    return [
        Table("Repetitions whose 95 % interval holds the difference", head, tuple(rows)),
        Table("Heart disease, test patients: AUROC", own, tuple(_heart_row(h) for h in hearts)),
    ]


def _heart_row(found: dict[str, Any]) -> tuple[str, ...]:
    area, flips = found["performance"]["auroc"], found["flips"]["patients"]
    share = found["agreement"].get("same_class")
    shown = ["not shown"] * 3
    if area["difference"] is not None:
        value, low, high = area["difference"]
        shown = [
            f"{area['old'][0]:.3f}",
            f"{area['new'][0]:.3f}",
            f"{value:+.3f} [{low:+.3f}, {high:+.3f}]",
        ]
    return (
        *(str(found["seed"]), found["patients of"], str(found["patients"])),
        "not shown" if share is None else f"{share:.1%}",
        "1 to 4" if flips is None else str(flips),
        *shown,
    )


def goals_of(covered: list[Coverage], repeats: int) -> list[Goal]:
    """Return the goal beside the lowest share."""
    least = 0.95 - SHORT - 3 * math.sqrt(0.95 * 0.05 / repeats)
    lowest = min(
        (found.held[figure], found.case, figure) for found in covered for figure in FIGURES
    )
    told = f"at least {lowest[0]:.1%} ({lowest[2]}, {lowest[1]})"
    return [
        Goal("intervals hold the difference", f"at least {least:.1%}", told, lowest[0] >= least)
    ]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="SVG of the first seed's calibration")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started = load_average()
    seeds = range(HEART_SEED, HEART_SEED + options.seeds)
    hearts = [row for s in seeds for row in heart(s, options.picture if s == HEART_SEED else None)]
    covered = [
        coverage(case, repeats=options.repeats, resamples=options.resamples, number=number)
        for number, case in enumerate(CASES)
    ]
    finish(
        "compare",
        measures="comparison of two versions: coverage of paired intervals, and two versions of a study",
        settings={
            "repeats": options.repeats,
            "resamples": options.resamples,
            "prevalence": PREVALENCE,
            "correlation": CORRELATION,
            "population": POPULATION,
            "cases": [asdict(case) for case in CASES],
            "epsilons": EPSILONS,
        },
        seeds=[SEED, *seeds],
        tables=tables_of(covered, hearts),
        goals=goals_of(covered, options.repeats),
        notes=[
            "Test patients of the heart data took part in the training of neither version.",
            "Tests are counted that find a difference at 5 %; where there is none, 5 % is their promise.",
        ],
        results={"coverage": [asdict(found) for found in covered], "heart": hearts},
        load_at_start=started,
        out=options.out,
    )


if __name__ == "__main__":
    main()
