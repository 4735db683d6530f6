"""`connector = "table"`: a CSV or Parquet file with one row per patient."""

from solblom_client.policy import DatasetTable, NodeConfig
from solblom_models.tabular.table_file import Table, read_table
from solblom_protocol.contract import Contract


def open_table(config: NodeConfig, dataset: DatasetTable, contract: Contract | None) -> Table:
    """Return the data set's table: the contract's columns, or all of them where none is given.

    Raises:
        ConfigurationError: SB-118 Parquet without its package.
        DataError: SB-301, SB-302 or SB-307.
    """
    return read_table(
        config.path(dataset.path),
        id_column=dataset.patient,
        contract=contract,
        family_column=dataset.family,
    )
