"""`connector = "table"`: a CSV file with one row per patient."""

from solblom_client.policy import DatasetTable, NodeConfig
from solblom_models.tabular.data import Table, read_csv


def open_table(config: NodeConfig, dataset: DatasetTable) -> Table:
    """Return the data set's table as text.

    Raises:
        DataError: SB-301, SB-302 or SB-307.
    """
    return read_csv(config.path(dataset.path), id_column=dataset.patient)
