"""`connector = "table"`: a CSV file with one row per patient."""

from solblom_client.policy import DatasetTable, NodeConfig
from solblom_models.tabular.data import Table, read_csv
from solblom_protocol.errors import ConfigurationError


def open_source(config: NodeConfig, dataset: DatasetTable) -> Table:
    """Return the data set's table as text.

    Raises:
        ConfigurationError: SB-108, an unknown connector.
        DataError: SB-301, SB-302 or SB-307.
    """
    if dataset.connector != "table":
        raise ConfigurationError(
            "SB-108", f"The connector {dataset.connector} is not available in this version"
        )
    return read_csv(config.path(dataset.path), id_column=dataset.patient)
