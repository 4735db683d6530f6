"""Utility of the product's own path: what federation and privacy cost in AUROC, on all 920 heart patients.

Each seed makes a federation of the four embedded hospitals; the seed decides splits, keys and noise. For each
(epsilon, delta) the study comes from the template with the product's recipe, is signed, approved and run over the
local transport: real vaults, ledgers, sealed orders, Opacus. Compared on the union of the test sets, same patients,
with pooled logistic regression whose L2 is tuned by 5-fold cross-validation inside the same training patients, on two
public codings; the reference is the coding with the higher mean inner AUROC. Also: each hospital alone (tuned), AUROC
over pairs of the same hospital only, AUROC by hospital, and training without noise on false labels.

Intervals: differences are paired by seed. Seeds share patients, so the plain standard error is too small; the
interval is Nadeau & Bengio's (2003) corrected one, with 1/J + n_test/n_train in place of 1/J.

GOAL: at epsilon 1, delta 1e-3, the federated model loses at most .005 to the pooled reference. It counts as failed
only if the corrected 95 % interval excludes it. Sanity: trained on labels by coin, AUROC is one half; and without
noise, a rewrite of the training in a few lines of numpy reaches the same AUROC from the same labels.

Not a blind test: the recipe's settings were chosen by cross-validation inside training rows of development seeds
1000-1004 (about 790 settings scored), and the same 920 patients reappear here in other roles.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from heart_reference import (
    CODINGS,
    LOCAL,
    measure,
    numpy_federation,
    reference_rows,
    relabelled_tables,
)
from heart_study import (
    Problem,
    Setting,
    check_run,
    check_split,
    federated_scores,
    no_evaluation,
    prepare,
    remembered_baselines,
    scratch_folder,
)
from report import Goal, finish, load_average
from sklearn.linear_model import LogisticRegression
from utility_tables import Seed, interval, main_table, mean, signed, site_table, summary

from solblom_simulation.hospitals import heart_tables
from solblom_simulation.table_evaluation import SiteData

EPSILONS, DELTAS = (1.0, 3.0, 8.0), (1e-3, 1e-5)
OFF = Setting(None)
SETTINGS = (*(Setting(e, d) for e in EPSILONS for d in DELTAS), OFF)
GOAL_SETTING, GOAL_LOSS = Setting(1.0, 1e-3), 0.005
NUMPY_TOLERANCE = 0.001
RELABELLED = {"labels permuted within hospitals": False, "labels by coin": True}
DISCLOSURE = (
    "The recipe's settings were chosen by cross-validation inside training rows of development seeds 1000-1004 "
    "(about 790 settings scored); the same 920 patients reappear here in other roles."
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=30, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--first-seed", type=int, default=0, help="for development: 1000 or more")
    parser.add_argument(
        "--scratch", type=Path, default=scratch_folder(), help="folder for federations"
    )
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("at least two seeds are needed")
    load_at_start, started = load_average(), time.monotonic()
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    found: list[Seed] = []
    with remembered_baselines() as fit:
        for seed in seeds:
            begun = time.monotonic()
            found.append(_one_seed(seed, options.scratch, fit))
            found[-1]["seconds"] = round(time.monotonic() - begun, 1)
            print(f"seed {seed}: {found[-1]['seconds']} s", flush=True)
    _report(seeds, found, time.monotonic() - started, load_at_start, options.out)


def _one_seed(seed: int, scratch: Path | None, fit: Callable[..., LogisticRegression]) -> Seed:
    """Run all settings of one seed."""
    result: Seed = {}
    sites: list[SiteData] | None = None
    for setting in SETTINGS:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            ready = prepare(Path(folder) / "home", setting, seed=seed)
            run, here = ready.run(), ready.sites()
            check_run(ready.home, run, setting)
            scores = federated_scores(run, here)
            anew = numpy_federation(here, ready.document) if setting == OFF else None
        if sites is None:
            sites = here
            result |= reference_rows(
                sites, ready.document.contract, heart_tables().values(), seed=seed, fit=fit
            )
        check_split(sites, here)
        result[setting.name] = measure(sites, scores)
        if anew is not None:
            result[setting.name] |= {"numpy": measure(sites, anew)["all"]}
        told = (run.evaluation or {})["all"]["federated"]["auroc"]
        if abs(told - result[setting.name]["all"]) > 1e-6:
            raise RuntimeError("the product's own evaluation gives another AUROC")
    if sites is None:
        raise RuntimeError("no setting was run")
    for name, coins in RELABELLED.items():
        with tempfile.TemporaryDirectory(dir=scratch) as folder, no_evaluation():
            tables = relabelled_tables(
                Path(folder) / "tables", sites, heart_tables(), coins=coins, seed=seed
            )
            ready = prepare(Path(folder) / "home", OFF, seed=seed, problem=Problem(tables))
            run, here = ready.run(), ready.sites()
            check_split(sites, here)
            twin = {"numpy": measure(sites, numpy_federation(here, ready.document))["all"]}
            result[name] = measure(sites, federated_scores(run, here)) | twin
    return result


def _report(
    seeds: list[int], found: list[Seed], seconds: float, load_at_start: float, out: Path | None
) -> None:
    pooled = max((f"pooled, {c}" for c in CODINGS), key=lambda m: mean(found, m, "inner_auroc"))
    ratio = float(np.mean([sum(f["test"].values()) / sum(f["training"].values()) for f in found]))
    methods = [*(f"pooled, {c}" for c in CODINGS), LOCAL, *(s.name for s in SETTINGS), *RELABELLED]
    figures = {m: summary(found, m, pooled, ratio) for m in methods}
    goal = figures[GOAL_SETTING.name]["difference"]
    met = goal["high"] >= -GOAL_LOSS
    coin = figures["labels by coin"]["all"]
    apart = max(abs(f[m]["numpy"] - f[m]["all"]) for f in found for m in (OFF.name, *RELABELLED))
    coin_error = coin["sd"] / len(found) ** 0.5
    remark = "" if goal["mean"] >= -GOAL_LOSS or not met else "; the mean alone misses it"
    inner = [f"{c} {mean(found, f'pooled, {c}', 'inner_auroc'):.4f}" for c in CODINGS]
    finish(
        "utility",
        measures="AUROC of the real product path beside tuned pooled and local-only models, UCI heart, four hospitals",
        settings={
            "recipe": "template of tabular-classification, preset few-large-steps",
            "epsilons": EPSILONS,
            "deltas": DELTAS,
            "reference": pooled,
            "n_test_over_n_train": round(ratio, 4),
            "seconds": round(seconds),
        },
        seeds=seeds,
        tables=[main_table(methods, figures, pooled), site_table(methods, found)],
        goals=[
            Goal(
                f"loss to pooled at {GOAL_SETTING.name}",
                "at most .005; failed only if the 95 % interval excludes it",
                f"{signed(goal['mean'])} {interval(goal)}{remark}",
                met,
            ),
            Goal(
                "AUROC of training on labels by coin",
                "one half, within three standard errors",
                f"{coin['mean']:.4f} (SE {coin_error:.4f})",
                abs(coin["mean"] - 0.5) <= 3 * coin_error,
            ),
            Goal(
                "largest difference in AUROC to a rewrite in numpy, without noise, true and false labels",
                f"at most {NUMPY_TOLERANCE:g}",
                f"{apart:.6f} ({len(found)} seeds, 3 runs each)",
                apart <= NUMPY_TOLERANCE,
            ),
        ],
        notes=[
            DISCLOSURE,
            f"Reference: {pooled}, chosen by mean inner cross-validated AUROC "
            f"({', '.join(inner)}).",
            "Differences are to the reference, paired by seed; SE is the plain one, the interval the corrected "
            "one (Nadeau & Bengio).",
            "Hospitals differ in how common the disease is, so AUROC over all rewards knowing the hospital; pairs of "
            "the same hospital do not. Labels permuted within hospitals still teach which findings go with hospitals "
            "of many ill patients; with labels by coin nothing is left to learn, and one half is expected.",
            "Noise follows from study, seed and code digest: other code draws other noise.",
        ],
        results={
            "summary": figures,
            "by_seed": {str(s): f for s, f in zip(seeds, found, strict=True)},
        },
        load_at_start=load_at_start,
        out=out,
    )


if __name__ == "__main__":
    main()
