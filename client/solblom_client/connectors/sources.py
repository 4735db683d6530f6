"""From a data set of node.toml to what a task reads: one function for each kind of connector."""

from pathlib import Path
from typing import Any

from solblom_client.connectors.table import open_table
from solblom_client.policy import DatasetTable, NodeConfig
from solblom_protocol.errors import ConfigurationError


def open_source(config: NodeConfig, dataset: DatasetTable) -> Any:
    """Return the data set as its kind of source: a table as text, or where phenopackets lie.

    Raises:
        ConfigurationError: SB-108, an unknown connector.
        DataError: SB-301, SB-302 or SB-307.
    """
    if dataset.connector == "table":
        return open_table(config, dataset)
    if dataset.connector == "phenopackets":
        return open_phenopackets(config, dataset)
    raise ConfigurationError(
        "SB-108", f"The connector {dataset.connector} is not available in this version"
    )


def open_phenopackets(config: NodeConfig, dataset: DatasetTable) -> Path:
    """Return the file or folder of a data set; its cases stream, so nothing is read yet."""
    return config.path(dataset.path)
