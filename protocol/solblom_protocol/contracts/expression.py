"""Expression in the data contract: up to 20,000 columns of one unit, one transform and one range.

Everything is done within one sample, by public constants: no other patient's numbers are used, so nothing private is
estimated (privacy.md rule 2).
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from solblom_protocol.contracts.meaning import Code, Finite, Meaning, Text
from solblom_protocol.errors import ConfigurationError

MOST_GENES = 20_000
MAX_LIST_BYTES = 4 * 1024 * 1024
COLUMNS_FILE = "columns_file"

Gene = Annotated[str, Field(min_length=1, max_length=60)]
Genes = Annotated[tuple[Gene, ...], Field(min_length=1, max_length=MOST_GENES)]
Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Expression(BaseModel):
    """The genes of a sample. The model sees each as `(transformed value - center) / scale`, limited to ±3.

    Transforms: `none`; `log2`, that is log2(value + 1); `rank`, the rank within the sample as a normal
    score, over the genes that the sample has, equal values at their mean rank. A gene that a sample lacks
    counts as its center. A gene set is the mean of its genes as the model would see them, over
    `set_scale`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    unit: Text  # for example TPM
    minimum: Finite  # of a value as it stands in the table
    maximum: Finite
    columns: Genes  # names of the table's columns; all of them take part in the ranks
    transform: Literal["none", "log2", "rank"] = "none"
    inputs: Genes | None = None  # genes that the model sees; None: all, or none beside gene sets
    gene_sets: dict[Text, Genes] = {}
    # Public constants after the transform: one for all genes, or one for each of `columns`.
    center: Finite | tuple[Finite, ...] = 0.0
    scale: Spread | tuple[Spread, ...] = 1.0
    set_scale: Spread = 1.0  # public spread of a set's mean
    missing: tuple[Code, ...] = ()  # besides the empty field
    max_missing: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of `columns` a sample may lack
    meaning: Meaning

    @model_validator(mode="after")
    def _consistent(self) -> "Expression":
        if not self.minimum < self.maximum:
            raise ValueError("minimum must be below maximum")
        if self.transform == "log2" and self.minimum < 0:
            raise ValueError("minimum is below 0, where log2(value + 1) would not be of use")
        refuse_doubles("gene", self.columns)
        known = set(self.columns)
        for name, genes in {"inputs": self.inputs or (), **self.gene_sets}.items():
            refuse_doubles(f"gene of {name}", genes)
            unknown = [gene for gene in genes if gene not in known]
            if unknown:
                raise ValueError(f"{name}: not in columns: {_some(unknown)}")
        for name, values in (("center", self.center), ("scale", self.scale)):
            if isinstance(values, tuple) and len(values) != len(self.columns):
                raise ValueError(
                    f"{name} has {len(values)} values, columns {len(self.columns)}: "
                    "give one for all, or one for each"
                )
        return self

    @property
    def genes(self) -> tuple[str, ...]:
        """The genes that the model sees one by one, in order."""
        if self.inputs is not None:
            return self.inputs
        return () if self.gene_sets else self.columns

    @property
    def sets(self) -> tuple[str, ...]:
        """The gene sets in order: by name, since a signed study keeps no other order."""
        return tuple(sorted(self.gene_sets))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the net's inputs: genes, then gene sets."""
        return (*(f"gene:{gene}" for gene in self.genes), *(f"set:{name}" for name in self.sets))


def refuse_doubles(what: str, names: Iterable[str]) -> None:
    """Refuse a name that stands twice.

    Raises:
        ValueError: says which.
    """
    doubles = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubles:
        raise ValueError(f"{what} stands twice: {_some(doubles)}")


def with_listed_columns(tables: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a contract's tables with the genes of `expression.columns_file`, one a line, as `columns`.

    The signed contract holds the names themselves.

    Raises:
        ConfigurationError: SB-101 the list cannot be read, SB-103 there are two lists.
    """
    expression = tables.get("expression")
    if not isinstance(expression, dict) or COLUMNS_FILE not in expression:
        return tables
    if "columns" in expression:
        raise ConfigurationError("SB-103", "expression has columns and columns_file: give one")
    path = folder / str(expression[COLUMNS_FILE])
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise ConfigurationError("SB-101", f"{path} is larger than {MAX_LIST_BYTES} bytes")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigurationError("SB-101", f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError("SB-101", f"{path} is not UTF-8") from None
    names = [line.strip() for line in lines if line.strip()]
    rest = {key: value for key, value in expression.items() if key != COLUMNS_FILE}
    return tables | {"expression": rest | {"columns": names}}


def _some(names: list[str]) -> str:
    """Return the first names of a list that may have thousands."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
