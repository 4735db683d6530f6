"""MSI status from tumour expression: a federation of four hospitals beside the same patients pooled, without privacy.

TCGA colorectal cancer, MSI-H against MSS and MSI-L, four hospitals by tissue source site (`tcga.py`: 177 patients, 29
with MSI-H). Each hospital's table holds all 1,577 genes as they stand in the file; vaults rank them within the sample
by the contract's `[expression]`. No gene is chosen by anybody's label: centre and scale of each rank come from
development sites, which share no patient with the evaluation, and so does the setting (`--tune`).

Every split is a whole federation through real vaults, with keys of its own that decide who is tested. Beside it, on the
same patients: the same net trained on all training patients at once, pooled logistic regression tuned by
cross-validation inside them, and tuned logistic regression of each hospital alone.

GOAL: federated minus pooled, by AUROC over all test patients, is not wholly below -.01 (95 % interval), for either
pooled model.
"""

import argparse
import datetime as dt
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import numpy as np
import torch
from coadread_study import (
    Setting,
    document_of,
    expression_contract,
    settings_json,
    train_quickly,
    write_tables,
)
from coadread_tune import GRID, SEEDS, tune
from expression_speed import measure as measure_speed
from heart_study import check_all_took_part, federated_scores, no_evaluation, scratch_folder
from report import Goal, Table, finish, load_average
from shared_noise import batch_of, hospital_table, paired, signed
from shared_noise_arms import Found, Group, found_of
from tcga import FOLDER, Patients, constants, evaluation_hospitals, folder, halves, load

from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import StudyDocument, sign_study
from solblom_server.rounds.runs import start_run
from solblom_simulation.baselines import fit_tuned, predict
from solblom_simulation.evaluation import read_site
from solblom_simulation.hospitals import (
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    node_files,
)
from solblom_simulation.site_differences import distances
from solblom_simulation.table_evaluation import SiteData

# The best mean AUROC over the development draws of `--tune`.
CHOSEN = Setting((), "fedavg", rounds=30, local_steps=1, learning_rate=0.03)
FLOOR = -0.01
POOLED = ("pooled, the same net", "pooled, tuned logistic regression")
NOTES = (
    "Splits share patients: the interval is the corrected one of Nadeau and Bengio (2003).",
    "The setting chosen has one local step a round and one public divisor, so the federation takes the steps of pooled "
    "gradient descent: to the same net only rounding is left.",
    "Within hospitals: mean over hospitals whose test patients have both labels. Local-only mixes scores of four "
    "models in the first column: compare it there.",
    "Some 8 of the 50-odd test patients of a split have MSI-H, and the target is easy from expression: a difference "
    "of .01 is about four pairs of patients in the wrong order.",
    "The 1,577 genes are those of the file; who made it chose them.",
    "Apart from others: root mean square over genes of the difference of means, in standard deviations inside "
    "hospitals; batch effect, case mix and chance together. Mean over splits.",
    "Speed: made-up samples, one process a file; the peak holds what is loaded before a row is read.",
)


@dataclass(frozen=True)
class Split:
    """What one whole federation found, and how far its hospitals lay apart."""

    found: dict[str, Found]
    test_patients: int
    training_patients: int
    apart: dict[str, dict[str, float]]


def one_split(development: Patients, evaluation: Patients, seed: int) -> Split:
    """Run one federation through real vaults; train the others on the same patients."""
    hospitals = evaluation_hospitals(evaluation)
    public = constants(development, list(range(len(development.genes))))
    contract = expression_contract(development.genes, public)
    document = document_of(contract, CHOSEN, batch_of(hospitals), seed)
    now, policy = dt.datetime.now(dt.UTC), SimulationPolicy(delta=1e-3, allow_privacy_off=True)
    with tempfile.TemporaryDirectory(prefix="sb", dir=scratch_folder()) as name, no_evaluation():
        home = Path(name) / "home"
        tables = write_tables(Path(name), evaluation, hospitals)
        create_federation(home, seed=seed, tables=tables, policy=policy)
        key = read_signing_key(home / "researcher" / "researcher.key")
        envelope = sign_study(document, key)
        approve_everywhere(home, envelope, seed=seed, now=now)
        run = start_run(home, envelope, transport_name="local", now=now)
        check_all_took_part(home, run)
        sites = [read_site(node, document) for node in node_files(home)]
        federated = federated_scores(run, sites)
    return _compared(document, sites, federated, seed)


def _compared(
    document: StudyDocument, sites: list[SiteData], federated: list[Any], seed: int
) -> Split:
    tested: Group = {s.site: (s.test.features.astype(np.float64), s.test.labels) for s in sites}
    pooled = TableUnits(
        tuple(i for s in sites for i in s.training.ids),
        np.concatenate([s.training.features for s in sites]),
        np.concatenate([s.training.labels for s in sites]),
    )
    training = document.study.training
    batch = training.expected_batch_size * len(sites)
    same = document.model_copy(
        update={
            "study": document.study.model_copy(
                update={"training": training.model_copy(update={"expected_batch_size": batch})}
            )
        }
    )
    task, net = TabularClassification(), train_quickly(same, [pooled])
    tuned = fit_tuned(pooled.features, pooled.labels, seed=seed)
    own = [fit_tuned(s.training.features, s.training.labels, seed=seed) for s in sites]
    scores = {
        "federated": federated,
        POOLED[0]: [task.scores(net, s.test) for s in sites],
        POOLED[1]: [predict(tuned, s.test.features) for s in sites],
        "local-only": [predict(m, s.test.features) for m, s in zip(own, sites, strict=True)],
    }
    apart = distances([s.training.features for s in sites])
    return Split(
        {arm: found_of(np.concatenate(parts), tested) for arm, parts in scores.items()},
        sum(len(s.test.ids) for s in sites),
        len(pooled.ids),
        {s.site: a for s, a in zip(sites, apart, strict=True) if a is not None},
    )


def main_table(splits: list[Split], differences: dict[str, dict[str, float]]) -> Table:
    """Return what each arm reaches."""
    rows = []
    for arm in splits[0].found:
        union = [s.found[arm].union for s in splits]
        low, middle, high = quantiles(union, n=4)
        rows.append(
            (
                arm,
                f"{mean(union):.3f}",
                f"{middle:.3f} [{low:.3f}, {high:.3f}]",
                signed(differences[arm]) if arm in differences else "",
                f"{np.nanmean([s.found[arm].within for s in splits]):.3f}",
            )
        )
    return Table(
        f"AUROC over all test patients, {len(splits)} splits; federated less each",
        ("arm", "mean", "median [quartiles]", "federated less this [95 %]", "within hospitals"),
        tuple(rows),
    )


def apart_table(splits: list[Split]) -> Table:
    """Return how far the hospitals lie apart in what the model sees."""
    rows = []
    for site in splits[0].apart:
        found = [s.apart[site] for s in splits]
        distance, chance = (mean(f[key] for f in found) for key in ("distance", "by_chance"))
        rows.append((site, f"{distance:.3f}", f"{chance:.3f}"))
    return Table(
        "How far a hospital's training patients lie from the others'",
        ("hospital", "apart", "by chance"),
        tuple(rows),
    )


def speed_table(speed: dict[str, dict[str, float]]) -> Table:
    """Return how long wide tables take."""
    rows = tuple(
        (
            kind,
            f"{s['file_mb']:.0f}",
            *(f"{s[f'{what}_seconds']:.1f}" for what in ("read", "log2", "rank")),
            f"{s['peak_before_mb']:.0f}",
            f"{s['peak_mb']:.0f}",
        )
        for kind, s in speed.items()
    )
    return Table(
        "1,000 samples of 20,000 genes",
        ("file", "MB", "read, s", "log2, s", "rank, s", "peak before, MB", "peak, MB"),
        rows,
    )


def report(
    splits: list[Split], evaluation: Patients, speed: dict[str, Any], rest: dict[str, Any]
) -> None:
    """Print and write everything."""
    ratio = sum(s.test_patients for s in splits) / sum(s.training_patients for s in splits)
    federated = [s.found["federated"] for s in splits]
    differences = {
        arm: paired(federated, [s.found[arm] for s in splits], ratio)
        for arm in (*POOLED, "local-only")
    }
    goals = [
        Goal(
            f"federated against {arm}",
            f"not wholly below {FLOOR:g}",
            signed(differences[arm]),
            bool(differences[arm]["high"] >= FLOOR),
        )
        for arm in POOLED
    ]
    finish(
        "coadread",
        measures="AUROC of MSI status from expression, federated and pooled, without privacy",
        settings={
            "chosen": settings_json(CHOSEN),
            "settings_tried": len(GRID),
            "tried_on": "development sites",
            "tuning_seeds": list(SEEDS),
            "expected_batch_size": batch_of(evaluation_hospitals(evaluation)),
            "transform": "rank",
            "genes": len(evaluation.genes),
        },
        tables=[
            main_table(splits, differences),
            hospital_table(evaluation),
            apart_table(splits),
            speed_table(speed),
        ],
        goals=goals,
        notes=NOTES,
        results={
            "auroc": {a: [s.found[a].union for s in splits] for a in splits[0].found},
            "within_hospitals": {
                a: [None if np.isnan(s.found[a].within) else s.found[a].within for s in splits]
                for a in splits[0].found
            },
            "differences": differences,
            "test_over_training": ratio,
            "apart": [s.apart for s in splits],
            "speed": speed,
        },
        **rest,
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--tune", action="store_true", help="choose the setting again; prints it")
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    load_at_start, path = load_average(), folder()
    if path is None:
        print(f"Not run: name the folder with the TCGA files in {FOLDER} (bench/README.md)")
        return
    development, evaluation = halves(load(path))
    if options.tune:
        tune(development)
        return
    seeds, splits = range(options.first, options.first + options.seeds), []
    for seed in seeds:
        splits.append(one_split(development, evaluation, seed))
        line = ", ".join(f"{arm} {f.union:.3f}" for arm, f in splits[-1].found.items())
        print(f"seed {seed}: {line}", flush=True)
    rest = {"seeds": seeds, "load_at_start": load_at_start, "out": options.out}
    report(splits, evaluation, measure_speed(), rest)


if __name__ == "__main__":
    main()
