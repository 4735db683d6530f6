"""The kinds of data contract, and how one is read from a file beside a study."""

from pathlib import Path
from typing import TypeVar

from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.expression import with_listed_columns
from solblom_protocol.contracts.phenopackets import DESCRIBED, PhenotypeContract
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.toml_file import parse, read_toml

AnyContract = Contract | PhenotypeContract | BagContract
RANK_CELLS = 11
"""A patient's disease stood at rank 1, 2, … 10, or further down."""

_Kind = TypeVar("_Kind", Contract, PhenotypeContract, BagContract)
_KINDS: dict[str, type[PhenotypeContract] | type[BagContract]] = {
    "phenopackets": PhenotypeContract,
    "bags": BagContract,
}
_WORDS: dict[type[AnyContract], str] = {
    Contract: "a table",
    PhenotypeContract: "phenopackets",
    BagContract: "bags",
}


def read_contract(path: Path) -> AnyContract:
    """Return the contract in a file: one of tables, unless it says another `kind`.

    Raises:
        ConfigurationError: SB-101 to SB-103.
    """
    value = read_toml(path)
    if "kind" in value:
        kind = _KINDS.get(str(value["kind"]))
        if kind is None:
            known = " or ".join(f'"{name}"' for name in _KINDS)
            raise ConfigurationError(
                "SB-103", f"{path.name}: kind is {known}; a contract of a table has none"
            )
        return parse(kind, value, source=path.name)
    return parse(Contract, with_listed_columns(value, path.parent), source=path.name)


def contract_as(kind: type[_Kind], contract: AnyContract, *, task: str) -> _Kind:
    """Return the contract as the kind that a task reads.

    Raises:
        ConfigurationError: SB-106, it is of another kind.
    """
    if not isinstance(contract, kind):
        wanted = _WORDS[kind]
        raise ConfigurationError(
            "SB-106",
            f"The contract {contract.name} is not one of {wanted}, which the task {task} reads",
        )
    return contract


def describable(contract: AnyContract) -> frozenset[str]:
    """Return the names that Table 1 of a study can count."""
    if isinstance(contract, PhenotypeContract):
        return frozenset(DESCRIBED)
    if isinstance(contract, BagContract):
        return frozenset()
    return frozenset(variable.name for variable in contract.variable) | {contract.target.name}
