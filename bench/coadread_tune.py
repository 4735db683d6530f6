"""How the setting of `coadread.py` was chosen: on development sites alone, by mean AUROC over drawn hospitals."""

import time

import numpy as np
from coadread_study import Setting, document_of, expression_contract, features_of, train_quickly
from sklearn.metrics import roc_auc_score
from tcga import Patients, constants, drawn_hospitals, is_test

from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.contracts.table import Contract

SEEDS = range(2000, 2010)
GRID = [
    *(
        Setting((), "fedavg", rounds, steps, rate)
        for rounds in (10, 30)
        for steps in (1, 5)
        for rate in (0.003, 0.01, 0.03)
    ),
    *(Setting((32,), "fedavg", 30, 5, rate) for rate in (0.01, 0.03, 0.1)),
    *(
        Setting(hidden, strategy, 30, 1, 0.1, server_rate)
        for hidden in ((), (32,))
        for strategy in ("fedadam", "fedyogi")
        for server_rate in (0.003, 0.01, 0.03)
    ),
]


def tune(development: Patients) -> None:
    """Print the mean AUROC of each setting on draws of the development patients, best last."""
    found: dict[Setting, float] = {}
    draws = [_draw(development, seed) for seed in SEEDS]
    for setting in GRID:
        started, aurocs = time.monotonic(), []
        for seed, (contract, groups, test) in zip(SEEDS, draws, strict=True):
            batch = sum(len(units.ids) for units in groups) / len(groups)
            net = train_quickly(document_of(contract, setting, batch, seed), groups)
            scores = TabularClassification().scores(net, test)
            aurocs.append(float(roc_auc_score(test.labels, scores)))
        found[setting] = float(np.mean(aurocs))
        print(f"{found[setting]:.4f}  {setting}  {time.monotonic() - started:.0f} s", flush=True)
    for setting in sorted(found, key=lambda s: found[s])[-5:]:
        print(f"{found[setting]:.4f}  {setting!r}")


def _draw(development: Patients, seed: int) -> tuple[Contract, list[TableUnits], TableUnits]:
    """Return the contract, four drawn hospitals' training patients, and all test patients."""
    held = np.array([is_test(patient, seed) for patient in development.ids])
    # Constants of a draw come from its training patients alone, as they come from other sites in the evaluation.
    kept = development.where(~held)
    public = constants(kept, list(range(len(development.genes))))
    contract = expression_contract(development.genes, public)
    features = features_of(development, contract)

    def units(index: np.ndarray) -> TableUnits:
        ids = tuple(development.ids[i] for i in index)
        return TableUnits(ids, features[index], development.labels[index])

    hospitals = drawn_hospitals(development, seed).values()
    return contract, [units(i[~held[i]]) for i in hospitals], units(np.nonzero(held)[0])
