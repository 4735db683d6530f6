"""What shared noise is worth: MSI status from tumour expression in four small hospitals, beside local noise and none.

TCGA colorectal cancer, four hospitals by tissue source site (`tcga.py`: 177 patients, 29 with MSI-H, of whom 70 % are
trained on), logistic regression on genes by rank within the sample. Every choice (genes, their centre and scale,
rounds, rate, clipping norm, L2) was made on development sites, from which no patient is in the evaluation: `--tune`
makes it again. Both private arms had one grid, for each epsilon: 4 numbers of genes, 4 of rounds, 3 clipping norms, 5
rates.

Arms, on the same splits: none (FedSGD to its end, which is L2-regularised logistic regression of all training
patients), local-only (the same in each hospital alone), local noise and shared noise at epsilon 1, 3 and 8. The private
arms run the product's training, grid, noise and optimiser; masks cancel exactly and are left out. Shared: four
hospitals, one assumed colluder. Delta is 1e-3, below one over the patients (1/177).

GOAL: shared noise at epsilon 3 within .03 AUROC of none.
"""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, quantiles, stdev
from typing import Any

import numpy as np
import torch
from report import Goal, Table, finish, load_average
from scipy.stats import t as student
from shared_noise_arms import Split, alone, private, split_of, without_noise
from shared_noise_tune import tune
from tcga import (
    FOLDER,
    Patients,
    constants,
    evaluation_hospitals,
    folder,
    genes_by_association,
    halves,
    load,
)
from tcga_study import DELTA, EPSILONS, Setting, contract_of, document_of, made_up_roster

from solblom_models.accountant import alone_epsilon, format_epsilon, two_hospitals_epsilon
from solblom_protocol.study import StudyDocument

# Found by `--tune`: the best mean AUROC over development draws 2000 to 2019. All clipping norms and most numbers of
# rounds lie at the edge of the grid.
NONE, ALONE = (100, 0.01), (50, 0.01)  # genes, L2
CHOSEN: dict[tuple[str, float], Setting] = {
    ("local", 1.0): Setting(genes=50, rounds=5, norm=0.3, rate=0.5),
    ("local", 3.0): Setting(genes=50, rounds=5, norm=0.3, rate=1.0),
    ("local", 8.0): Setting(genes=100, rounds=5, norm=0.3, rate=1.0),
    ("shared", 1.0): Setting(genes=50, rounds=5, norm=0.3, rate=0.5),
    ("shared", 3.0): Setting(genes=100, rounds=5, norm=0.3, rate=0.5),
    ("shared", 8.0): Setting(genes=100, rounds=10, norm=0.3, rate=0.5),
}
GOAL_LOSS = 0.03


def study(development: Patients, split: Split, arm: str, epsilon: float) -> StudyDocument:
    """Return the study of a private arm; its divisor is the mean number of training patients of a hospital."""
    setting = CHOSEN[arm, epsilon]
    genes = genes_by_association(development, setting.genes)
    contract = contract_of([development.genes[g] for g in genes], constants(development, genes))
    batch = sum(len(y) for _, y in split.train.values()) / len(split.train)
    roster = made_up_roster(list(split.train)) if arm == "shared" else None
    return document_of(contract, setting, epsilon, round(batch), roster)


def measure(
    development: Patients, evaluation: Patients, seeds: range
) -> tuple[dict[str, list[float]], dict[str, Any], float]:
    """Return each arm's AUROC by seed, the private arms' figures, and test over training patients."""
    hospitals = evaluation_hospitals(evaluation)

    def split(count: int, seed: int) -> Split:
        genes = genes_by_association(development, count)
        return split_of(evaluation, hospitals, genes, constants(development, genes), seed)

    first = split(10, seeds[0])
    sizes = [sum(len(y) for _, y in g.values()) for g in (first.test, first.train)]
    arms: dict[str, Callable[[int], float]] = {
        "none": lambda seed: without_noise(split(NONE[0], seed), NONE[1]),
        "local-only": lambda seed: alone(split(ALONE[0], seed), ALONE[1]),
    }
    figures: dict[str, Any] = {}
    for epsilon in EPSILONS:
        for arm in ("local", "shared"):
            document = study(development, first, arm, epsilon)
            name, genes = f"{arm} noise, epsilon {epsilon:g}", CHOSEN[arm, epsilon].genes
            arms[name] = lambda seed, d=document, g=genes: private(d, split(g, seed), seed)
            figures[name] = _figures(document)
    found = {}
    for name, run in arms.items():
        found[name] = [run(seed) for seed in seeds]
        print(f"{name}: {mean(found[name]):.4f}", flush=True)
    return found, figures, sizes[0] / sizes[1]


def _figures(document: StudyDocument) -> dict[str, str]:
    events = [document.round_event] * document.study.training.rounds
    shared = document.secure_sum is not None
    twice = two_hospitals_epsilon(events, DELTA)
    return {
        "noise_multiplier": document.noise_multiplier or "",
        "epsilon_alone": format_epsilon(alone_epsilon(document)) if shared else "",
        "epsilon_in_two_hospitals": format_epsilon(twice) if shared else "",
    }


def paired(values: list[float], reference: list[float], ratio: float) -> dict[str, float]:
    """Return the mean difference with Nadeau and Bengio's (2003) corrected 95 % interval."""
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    count, centre = len(differences), mean(differences)
    width = student.ppf(0.975, count - 1) * stdev(differences) * math.sqrt(1 / count + ratio)
    return {"mean": centre, "low": centre - width, "high": centre + width}


def report(
    found: dict[str, list[float]],
    figures: dict[str, Any],
    ratio: float,
    seeds: range,
    load_at_start: float,
    out: Path | None,
) -> None:
    """Print and write everything."""
    differences = {name: paired(v, found["none"], ratio) for name, v in found.items()}
    rows = []
    for name, values in found.items():
        low, _, high = quantiles(values, n=4)
        d, extra = differences[name], figures.get(name, {})
        shown = "" if name == "none" else f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"
        rows.append(
            (
                name,
                f"{mean(values):.3f}",
                f"{median(values):.3f} [{low:.3f}, {high:.3f}]",
                shown,
                extra.get("epsilon_alone", ""),
                extra.get("epsilon_in_two_hospitals", ""),
            )
        )
    loss = -differences["shared noise, epsilon 3"]["mean"]
    finish(
        "shared_noise",
        measures="AUROC of MSI status under shared noise, local noise and none",
        settings={
            "chosen": {f"{arm} {epsilon:g}": vars(s) for (arm, epsilon), s in CHOSEN.items()},
            "none": NONE,
            "local_only": ALONE,
            "delta": DELTA,
        },
        seeds=list(seeds),
        tables=[
            Table(
                f"AUROC on the union of test patients, {len(seeds)} splits; differences to none",
                (
                    "arm",
                    "mean",
                    "median [quartiles]",
                    "difference [95 %]",
                    "alone",
                    "two hospitals",
                ),
                tuple(rows),
            )
        ],
        goals=[
            Goal(
                "shared noise at epsilon 3 against none",
                f"at most {GOAL_LOSS:g} lost",
                f"{loss:.3f} lost",
                loss <= GOAL_LOSS,
            )
        ],
        notes=[
            "Splits share patients: the interval is the corrected one of Nadeau and Bengio (2003).",
            "Alone: epsilon if all other hospitals work together. Two hospitals: of a patient who is in two.",
            "Some 8 of the 50-odd test patients of a split have MSI-H: single splits vary much.",
        ],
        results={"auroc": found, "differences": differences, "figures": figures},
        load_at_start=load_at_start,
        out=out,
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--tune", action="store_true", help="choose settings again; prints them")
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    np.seterr(over="ignore")  # exp of large logits: the probability is 0 or 1 all the same
    load_at_start, path = load_average(), folder()
    if path is None:
        print(f"Not run: name the folder with the TCGA files in {FOLDER} (bench/README.md)")
        return
    development, evaluation = halves(load(path))
    if options.tune:
        tune(development)
        return
    seeds = range(options.seeds)
    report(*measure(development, evaluation, seeds), seeds, load_at_start, options.out)


if __name__ == "__main__":
    main()
