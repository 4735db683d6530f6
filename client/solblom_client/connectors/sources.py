"""From a data set of node.toml to what a task reads: one function for each kind of connector."""

from pathlib import Path
from typing import Any

from solblom_client.connectors.table import open_table
from solblom_client.policy import DatasetTable, NodeConfig
from solblom_models.slide_mil.bags import BagIndex
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.kinds import AnyContract
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError, DataError


def open_source(config: NodeConfig, dataset: DatasetTable, contract: AnyContract) -> Any:
    """Return the data set as its kind of source: a contract's columns of a table, or where phenopackets lie.

    Raises:
        ConfigurationError: SB-108 an unknown connector, SB-118 Parquet without its package.
        DataError: SB-301, SB-302 or SB-307.
    """
    if dataset.connector == "table":
        # A contract of another kind is refused by the task that reads it.
        wanted = contract if isinstance(contract, Contract) else None
        return open_table(config, dataset, wanted)
    if dataset.connector == "phenopackets":
        return open_phenopackets(config, dataset)
    if dataset.connector == "bags":
        return BagIndex(config.path(dataset.path), dataset.patient)
    if dataset.connector == "slides":
        name = contract.features_index if isinstance(contract, BagContract) else "index.csv"
        index = config.path(dataset.source) / name
        if not index.is_file():
            raise DataError(
                "SB-307",
                f"The slides of {dataset.name} have no features yet",
                "Make them: solblom node features STUDY.signed.json",
            )
        return BagIndex(index, dataset.patient)
    raise ConfigurationError(
        "SB-108", f"The connector {dataset.connector} is not available in this version"
    )


def open_phenopackets(config: NodeConfig, dataset: DatasetTable) -> Path:
    """Return the file or folder of a data set; its cases stream, so nothing is read yet."""
    return config.path(dataset.path)
