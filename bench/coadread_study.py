"""The studies of `coadread.py`: expression as it stands in the file, ranked in the vault; the net trained at once."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tcga import Floats, Patients
from tcga_study import HOSPITALS, TARGET

from solblom_client.training.dp_sgd import TrainingSettings, train
from solblom_client.training.keystream import KeyStream
from solblom_models.aggregation.optimisers import ServerState, step
from solblom_models.flat import flatten, layout_of, load_flat
from solblom_models.study_document import resolve
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.expression import encode_genes
from solblom_models.tabular.table_file import GeneValues
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.contracts.table import Contract
from solblom_protocol.messages.layout import unpack
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse

LIMIT = 3.0  # of a feature, as the product's tables have it


@dataclass(frozen=True)
class Setting:
    """What was tried. Adaptive strategies have the paper's betas, and tau 1e-3."""

    hidden: tuple[int, ...]  # none: logistic regression
    strategy: str
    rounds: int
    local_steps: int
    learning_rate: float
    server_rate: float = 1.0

    def __str__(self) -> str:
        """Return it in a few words."""
        net = f"perceptron {self.hidden}" if self.hidden else "logistic regression"
        rates = f"rates {self.learning_rate:g} and {self.server_rate:g}"
        return f"{net}, {self.strategy}, {self.rounds} rounds of {self.local_steps}, {rates}"


def expression_contract(genes: tuple[str, ...], public: tuple[Floats, Floats]) -> Contract:
    """Return the contract: all genes by rank within the sample, public constants for each."""
    centre, scale = public
    expression = {
        "unit": "log2(TPM + 0.001)",
        "minimum": -20.0,
        "maximum": 30.0,
        "columns": list(genes),
        "transform": "rank",
        "center": centre.tolist(),
        "scale": scale.tolist(),
        "meaning": {"en": "expression of the tumour", "no": "uttrykk i svulsten"},
    }
    tables = {"name": "coadread", "version": 1, "target": TARGET, "expression": expression}
    return parse(Contract, tables, source="bench")


def document_of(contract: Contract, setting: Setting, batch: float, seed: int) -> StudyDocument:
    """Return the study, privacy off; `batch` is the public divisor of a hospital's sum."""
    model: dict[str, Any] = {"kind": "mlp" if setting.hidden else "logistic"}
    if setting.hidden:
        model["hidden"] = list(setting.hidden)
    training: dict[str, Any] = {
        "rounds": setting.rounds,
        "strategy": setting.strategy,
        "local_steps": setting.local_steps,
        "learning_rate": setting.learning_rate,
        "server_learning_rate": setting.server_rate,
        "expected_batch_size": batch,
        "seed": seed,
    }
    if setting.strategy != "fedavg":
        training |= {"beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    tables: dict[str, Any] = {
        "study": {
            "name": "coadread",
            "title": "MSI status from expression",
            "purpose": "A measurement",
            "legal_basis": ["open-access tier"],
            "ends": "2099-12-31",
        },
        "task": {
            "name": "tabular-classification",
            "target": TARGET["name"],
            "model": model,
            "contract": "contract.toml",
        },
        "training": training,
        "privacy": {"epsilon": "off", "delta": 1e-3, "clipping_norm": 1e6},  # clips nobody
        "cohort": {"min_nodes": HOSPITALS, "quorum": HOSPITALS, "min_patients": 10},
    }
    return resolve(parse(Study, tables, source="bench"), contract)


def features_of(patients: Patients, contract: Contract) -> NDArray[np.float32]:
    """Return patients' features as a vault computes them."""
    if contract.expression is None:
        raise ValueError("the contract has no expression")
    values = GeneValues(patients.values.astype(np.float32), ())
    return encode_genes(values, contract.expression, limit=LIMIT)


def write_tables(
    folder: Path, patients: Patients, hospitals: dict[str, NDArray[np.int64]]
) -> dict[str, Path]:
    """Write each hospital's table: expression as it stands in the file."""
    paths = {}
    for site, index in hospitals.items():
        lines = [",".join(["patient_id", *patients.genes, "msi_high"])]
        for i in index:
            values = [repr(float(value)) for value in patients.values[i]]
            lines.append(",".join([patients.ids[i], *values, str(patients.labels[i])]))
        paths[site] = folder / f"{site}.csv"
        paths[site].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def train_quickly(document: StudyDocument, groups: list[TableUnits]) -> Any:
    """Return the net after the study's rounds over these hospitals: the product's steps, without couriers and vaults.

    One group of all patients is the same net pooled.
    """
    task, settings = TabularClassification(), TrainingSettings.of(document)
    net = task.build(document)
    layout = layout_of(net, local=task.local_parameters(document))
    state = ServerState.initial(unpack(flatten(net, layout), layout).copy())
    for number in range(1, document.study.training.rounds + 1):
        moved = []
        for units in groups:
            load_flat(net, layout, state.model)
            unused = KeyStream(bytes(32))  # every patient in every step, and no noise
            train(task, net, units, settings, coins=unused, noise=unused)
            after = unpack(flatten(net, layout), layout).astype(np.float64)
            moved.append(after - state.model)
        mean = np.asarray(np.mean(moved, axis=0))
        state = step(state, mean, document.study.training, round_number=number)
    load_flat(net, layout, state.final_model())
    return net


def settings_json(setting: Setting) -> dict[str, Any]:
    """Return a setting for the result file."""
    return asdict(setting)
