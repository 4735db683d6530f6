"""The arms of `robust.py`: the product's own training, export gate, rules and server steps, without seals and vaults.

Noise follows from seed, hospital and round alone: all rules meet the same noise, and a bench run again gives the same
figures. That nothing is lost on the way is shown by whole federations, whose weights are the same bits.
"""

import csv
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from heart_study import STUDY_ENDS
from numpy.typing import NDArray

from solblom_client.export_gate import export_update, norm_bound
from solblom_client.keys import derive, is_test_patient
from solblom_client.training.dp_sgd import TrainingSettings, train
from solblom_client.training.keystream import KeyStream
from solblom_models.aggregation.optimisers import ServerState, step
from solblom_models.aggregation.robust import round_of
from solblom_models.flat import flatten, layout_of, load_flat
from solblom_models.study_document import resolve
from solblom_models.tabular.data import TableUnits, read_units
from solblom_models.tabular.table_file import read_csv
from solblom_models.tabular.task import TabularClassification
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.messages.layout import Float32, to_grid, unpack
from solblom_protocol.studies.study import StudyDocument, load_study
from solblom_simulation.hospitals import heart_tables
from solblom_simulation.table_evaluation import Scores, SiteData

TEST, DELTA = 0.3, 1e-5
CUT = "cleveland"  # Krum needs five hospitals
PATIENTS = {
    "cleveland-a": 151,
    "cleveland-b": 152,
    "hungarian": 294,
    "switzerland": 123,
    "va": 200,
}
OWN = {site: float(round((1 - TEST) * size)) for site, size in PATIENTS.items()}
COMMON = float(round((1 - TEST) * sum(PATIENTS.values()) / len(PATIENTS)))
ATTACKS = (
    "turned round, as large as the gate lets out",
    "turned round, of honest size, no noise in it",
    "labels turned",
)
TASK = TabularClassification()
NOTHING: frozenset[str] = frozenset()  # stays at the hospitals
Sites = dict[str, TableUnits]


@dataclass(frozen=True)
class Rule:
    """A strategy, and whether each hospital's sums are divided by its own public number."""

    strategy: str
    own: bool = True
    tolerated: int | None = None
    rate: float = 1.0  # times the preset's learning rate

    @property
    def name(self) -> str:
        """A short name for tables."""
        if self.strategy == "fedavg":
            return "plain mean"
        return self.strategy + ("" if self.own else ", one divisor")


def write_tables(folder: Path) -> dict[str, Path]:
    """Write the four real hospitals' tables, Cleveland's patients cut into two by a hash of their ids."""
    folder.mkdir(parents=True)
    paths = {}
    for site, table in heart_tables().items():
        with table.open(encoding="utf-8", newline="") as stream:
            header, *rows = csv.reader(stream)
        order = sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())
        half = PATIENTS["cleveland-a"]
        parts = (
            {f"{CUT}-a": order[:half], f"{CUT}-b": order[half:]} if site == CUT else {site: rows}
        )
        for name, chosen in parts.items():
            paths[name] = folder / f"{name}.csv"
            with paths[name].open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerows([header, *chosen])
    return {site: paths[site] for site in sorted(paths)}


def document_of(rule: Rule, epsilon: float | None, *, nodes: int = len(PATIENTS)) -> StudyDocument:
    """Return the template's study, the default preset, under a rule."""
    values = TemplateValues(
        name="bench", ends=STUDY_ENDS, epsilon=epsilon, delta=DELTA, patients=COMMON
    )
    with tempfile.TemporaryDirectory() as folder:
        file = write_template(Path(folder) / "s", "tabular-classification", values)
        study, contract, _ = load_study(file)
    changes: dict[str, Any] = {
        "strategy": rule.strategy,
        "tolerated": rule.tolerated,
        "learning_rate": study.training.learning_rate * rule.rate,
        "expected_batch_size": OWN if rule.own and rule.strategy != "fedavg" else COMMON,
    }
    training = study.training.model_copy(update=changes)
    cohort = study.cohort.model_copy(update={"min_nodes": nodes, "quorum": nodes})
    return resolve(study.model_copy(update={"training": training, "cohort": cohort}), contract)


def sites_of(tables: dict[str, Path], document: StudyDocument, seed: int) -> list[SiteData]:
    """Return each hospital's training and test patients; who is tested follows from the seed by the node's rule."""
    found = []
    for site, path in tables.items():
        units = read_units(read_csv(path, id_column="patient_id"), document.contract)
        key = hashlib.sha256(f"robust/{seed}/{site}".encode()).digest()
        tested = [is_test_patient(key, patient, TEST) for patient in units.ids]
        found.append(
            SiteData(site, part(units, tested, keep=False), part(units, tested, keep=True))
        )
    return found


def part(units: TableUnits, chosen: Sequence[bool], *, keep: bool) -> TableUnits:
    """Return the patients who are chosen, or the others."""
    index = [place for place, is_chosen in enumerate(chosen) if is_chosen is keep]
    ids = tuple(units.ids[place] for place in index)
    return TableUnits(ids, units.features[index], units.labels[index])


def weights_of(
    document: StudyDocument,
    sites: Sites,
    *,
    seed: int,
    attacker: str | None = None,
    attack: str | None = None,
) -> Float32:
    """Return the released weights of a run in which `attacker` lies as `attack` says."""
    net = TASK.build(document)
    layout = layout_of(net, local=NOTHING)
    state = ServerState.initial(unpack(flatten(net, layout), layout).copy())
    training = document.study.training
    for number in range(1, training.rounds + 1):
        fold = round_of(training, layout.size)
        for site, units in sites.items():
            lie = attack if site == attacker else None
            fold.add(_update(document, state.model, site, units, f"{seed}/{number}", lie))
        state = step(state, fold.result(), training, round_number=number)
    return state.final_model()


def _update(
    document: StudyDocument, model: Float32, site: str, units: TableUnits, key: str, lie: str | None
) -> Float32:
    """Return what a hospital sends in one round."""
    net = TASK.build(document)
    layout = layout_of(net, local=NOTHING)
    load_flat(net, layout, model)
    settings = TrainingSettings.of(document, site=site)
    if lie == ATTACKS[2]:
        units = TableUnits(units.ids, units.features, 1 - units.labels)
    root = hashlib.sha256(f"robust/{site}".encode()).digest()
    noise, coins = (
        KeyStream(derive(root, "noise", key)),
        KeyStream(derive(root, "sampling", key)),
    )
    trace = train(TASK, net, units, settings, coins=coins, noise=noise)
    data = export_update(model, net, layout, local=NOTHING, settings=settings, trace=trace)
    honest = unpack(data, layout).copy()
    if lie not in ATTACKS[:2]:
        return honest
    size = float(np.linalg.norm(honest.astype(np.float64)))
    if lie == ATTACKS[0]:
        size, direction = 0.999 * norm_bound(model, settings, trace), honest.astype(np.float64)
    else:  # all of the norm is lie, where an honest hospital's is noise for the most part
        load_flat(net, layout, model)
        train(TASK, net, units, replace(settings, noise_multiplier="0"), coins=coins, noise=noise)
        direction = unpack(flatten(net, layout), layout).astype(np.float64) - model
    return to_grid(direction * (-size / float(np.linalg.norm(direction))))


def scores_of(weights: Float32, document: StudyDocument, sites: list[SiteData]) -> list[Scores]:
    """Return the model's scores of each hospital's test patients."""
    net = TASK.build(document)
    load_flat(net, layout_of(net, local=NOTHING), weights)
    return [TASK.scores(net, site.test) for site in sites]


def inner(sites: list[SiteData], seed: int) -> list[SiteData]:
    """Return the training patients alone, split again: what may be looked at while choosing."""
    found = []
    for site in sites:
        units: Any = site.training
        key = hashlib.sha256(f"robust/inner/{seed}/{site.site}".encode()).digest()
        tested = [is_test_patient(key, patient, TEST) for patient in units.ids]
        found.append(
            SiteData(site.site, part(units, tested, keep=False), part(units, tested, keep=True))
        )
    return found


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation."""
    array: NDArray[np.float64] = np.array(values)
    return float(array.mean()), float(array.std(ddof=1))
