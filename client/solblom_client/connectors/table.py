"""`connector = "table"`: a CSV or Parquet file with one row per patient."""

from solblom_client.policy import DatasetTable, NodeConfig
from solblom_models.tabular.table_file import Table, read_table
from solblom_protocol.contract import Contract
from solblom_protocol.errors import ConfigurationError


def open_source(
    config: NodeConfig, dataset: DatasetTable, contract: Contract | None = None
) -> Table:
    """Return the data set's table: the contract's columns, or all of them where none is given.

    Raises:
        ConfigurationError: SB-108 an unknown connector, SB-118 Parquet without its package.
        DataError: SB-301, SB-302 or SB-307.
    """
    if dataset.connector != "table":
        raise ConfigurationError(
            "SB-108", f"The connector {dataset.connector} is not available in this version"
        )
    return read_table(config.path(dataset.path), id_column=dataset.patient, contract=contract)
