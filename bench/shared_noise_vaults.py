"""Whole federations of `shared_noise.py`: real vaults, keys, masks, ledgers and artefacts, beside the fast path.

The fast path leaves masks out, since they cancel exactly. So that this is no mere claim, some federations with the
setting of the goal run through real vaults over the local transport. Each splits patients by its hospitals' own keys;
the fast path then trains on just those patients many times, with the same study and fresh noise. AUROC and weights of
a whole federation must lie among those draws.
"""

import datetime as dt
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shared_noise_arms import Group, found_of, private_weights, scores_of
from tcga import Floats, Patients, constants, evaluation_hospitals, genes_by_association
from tcga_study import DELTA, HOSPITALS, Setting, contract_of, document_of

from solblom_models.artefact import load
from solblom_models.flat import flatten, layout_of
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.messages.layout import unpack
from solblom_protocol.studies.study import StudyDocument, sign_study
from solblom_protocol.sums.secure_sum import Roster
from solblom_server.rounds.runs import start_run
from solblom_simulation.evaluation import read_site
from solblom_simulation.hospitals import (
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    node_files,
)
from solblom_simulation.table_evaluation import SiteData

SEEDS, DRAWS = range(5), 500  # a right federation's figure is outside all draws twice in 501 times


@dataclass(frozen=True)
class Federation:
    """What the whole federation released, and whom its vaults trained and tested on."""

    document: StudyDocument
    weights: Floats
    sites: list[SiteData]

    def tested(self) -> Group:
        """Return the vaults' test patients by hospital."""
        return {s.site: (s.test.features.astype(np.float64), s.test.labels) for s in self.sites}


def write_tables(
    folder: Path, patients: Patients, hospitals: dict[str, NDArray[np.int64]], genes: list[int]
) -> dict[str, Path]:
    """Write each hospital's table: one row a patient, genes as normal scores of ranks."""
    names = [patients.genes[gene] for gene in genes]
    paths = {}
    for site, index in hospitals.items():
        lines = [",".join(["patient_id", *names, "msi_high"])]
        for patient in index:
            values = [f"{value:.9f}" for value in patients.ranks[patient, genes]]
            label = str(patients.labels[patient])
            lines.append(",".join([patients.ids[patient], *values, label]))
        paths[site] = folder / f"{site}.csv"
        paths[site].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def whole_federation(
    development: Patients,
    evaluation: Patients,
    setting: Setting,
    epsilon: float,
    batch: int,
    seed: int,
) -> Federation:
    """Run one study of shared noise through real vaults, with the policy a new hospital has."""
    genes = genes_by_association(development, setting.genes)
    contract = contract_of([development.genes[g] for g in genes], constants(development, genes))
    policy = SimulationPolicy(study_epsilon=epsilon, delta=DELTA, shared_noise=True)
    now = dt.datetime.now(dt.UTC)
    with tempfile.TemporaryDirectory(prefix="sb") as name:
        folder = Path(name)
        tables = write_tables(folder, evaluation, evaluation_hospitals(evaluation), genes)
        home = folder / "home"
        coordinator = create_federation(home, seed=seed, tables=tables, policy=policy)
        roster = Roster.of(coordinator.nodes())
        document = document_of(contract, setting, epsilon, batch, roster)
        key = read_signing_key(home / "researcher" / "researcher.key")
        envelope = sign_study(document, key)
        approve_everywhere(home, envelope, seed=seed, now=now)
        run = start_run(home, envelope, transport_name="local", now=now)
        sites = [read_site(node, document) for node in node_files(home)]
        model = load(run.path)
        layout = layout_of(model.net, local=model.task.local_parameters(document))
        weights = unpack(flatten(model.net, layout), layout).astype(np.float64)
    if len(sites) != HOSPITALS:
        raise RuntimeError("a hospital is missing")
    return Federation(document, weights, sites)


def compare(found: Federation) -> dict[str, Any]:
    """Return AUROC and weights of the federation beside draws of the fast path on the same patients.

    The weights' figure is their mean squared distance from the draws' mean, each weight in standard deviations: about
    1 for one more draw. It shows a grossly wrong amount of noise even where AUROC is 1 in all draws.
    """
    tested, units = found.tested(), {s.site: s.training for s in found.sites}
    draws = np.array(
        [private_weights(found.document, units, key=f"vaults/{n}") for n in range(DRAWS)]
    )
    aurocs = [found_of(scores_of(weights, tested), tested).union for weights in draws]
    centre, spread = draws.mean(axis=0), draws.std(axis=0, ddof=1)
    distances = (((draws - centre) / spread) ** 2).mean(axis=1)
    auroc = found_of(scores_of(found.weights, tested), tested).union
    distance = float((((found.weights - centre) / spread) ** 2).mean())
    return {
        "auroc": auroc,
        "fast_aurocs": [float(np.quantile(aurocs, q)) for q in (0, 0.25, 0.5, 0.75, 1)],
        "distance": distance,
        "fast_distances": [float(np.quantile(distances, q)) for q in (0, 0.25, 0.5, 0.75, 1)],
        "among_draws": bool(
            min(aurocs) <= auroc <= max(aurocs) and min(distances) <= distance <= max(distances)
        ),
        "test_patients": sum(len(s.test.ids) for s in found.sites),
        "test_msi_high": int(sum(s.test.labels.sum() for s in found.sites)),
    }


def rows_of(compared: dict[int, dict[str, Any]]) -> tuple[tuple[str, ...], ...]:
    """Return a table's rows, one for each federation."""

    def beside(value: float, draws: list[float]) -> tuple[str, str]:
        return f"{value:.3f}", f"{draws[2]:.3f} [{draws[0]:.3f}, {draws[4]:.3f}]"

    return tuple(
        (
            str(seed),
            f"{found['test_msi_high']} of {found['test_patients']}",
            *beside(found["auroc"], found["fast_aurocs"]),
            *beside(found["distance"], found["fast_distances"]),
        )
        for seed, found in compared.items()
    )
