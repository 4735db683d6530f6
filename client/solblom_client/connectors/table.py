"""`connector = "table"`: a CSV or Parquet file with one row per patient, in the hospital's own units and codes."""

from solblom_client.policy import DatasetTable, NodeConfig
from solblom_models.tabular.harmonise import Harmonisation, harmonise
from solblom_models.tabular.table_file import Table, read_table
from solblom_protocol.contracts.table import Contract


def open_table(config: NodeConfig, dataset: DatasetTable, contract: Contract | None) -> Table:
    """Return the data set's table: the contract's columns in its units and codes, or all where none is given.

    Raises:
        ConfigurationError: SB-118 Parquet without its package.
        DataError: SB-301, SB-302, SB-307 or SB-313.
    """
    found = read_as_it_stands(config, dataset, contract)
    return found if contract is None else harmonise(found, contract, harmonisation(config, dataset))


def read_as_it_stands(
    config: NodeConfig, dataset: DatasetTable, contract: Contract | None
) -> Table:
    """Return the data set's table before anything is converted.

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


def harmonisation(config: NodeConfig, dataset: DatasetTable) -> Harmonisation:
    """Return what node.toml says of the data set's units and codes."""
    maps = {name: config.path(file) for name, file in dataset.maps.items()}
    return Harmonisation(dataset.units, maps)
