"""The data contract: what each variable means, its type, unit, range, missing codes and public constants.

A study carries its contract inside the signature. Standardisation uses public constants of the
contract (privacy.md rule 2): statistics of patients would cost privacy budget and ruin small
hospitals.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from solblom_protocol.contracts.expression import Expression, refuse_doubles
from solblom_protocol.contracts.meaning import Code, Finite, Meaning, Text


class AcceptedUnit(BaseModel):
    """Another unit in which a hospital may keep a number: `value x factor + offset` is in the variable's unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    unit: Text
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    offset: Finite = 0.0


def _unsaid(value: object) -> bool:
    """Tell whether a member that came later says nothing: left out, so that older signed studies keep their digest."""
    return value in (None, (), "refuse")


CodeSystem = Annotated[Text | None, Field(exclude_if=_unsaid)]
"""Where a variable's codes come from, for example ICD-11: opaque, compared with the maps of hospitals."""
Unmapped = Annotated[Literal["refuse", "missing"], Field(exclude_if=_unsaid)]
"""What happens to a code that the contract does not list: the data are refused, or the value counts as missing."""


class NumberVariable(BaseModel):
    """A measured number. The model sees `(value - center) / scale`, limited to ±3; missing becomes 0."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["number"]
    name: Text
    column: Text
    unit: Text  # UCUM, for example mm[Hg]
    minimum: Finite
    maximum: Finite
    center: Finite  # public constant, in the variable's unit
    scale: Annotated[
        float, Field(gt=0, allow_inf_nan=False)
    ]  # public constant, in the variable's unit
    missing: tuple[Code, ...] = ()  # besides the empty field
    accepts: Annotated[tuple[AcceptedUnit, ...], Field(exclude_if=_unsaid)] = ()
    code: Text | None = None  # LOINC, SNOMED CT …: opaque
    meaning: Meaning

    @model_validator(mode="after")
    def _range(self) -> "NumberVariable":
        if not self.minimum < self.maximum:
            raise ValueError(f"{self.name}: minimum must be below maximum")
        units = [self.unit, *(accepted.unit for accepted in self.accepts)]
        if len(set(units)) != len(units):
            raise ValueError(f"{self.name}: a unit stands twice")
        return self


class CategoryVariable(BaseModel):
    """One of a few codes. The model sees one feature per level: `scale` for the level present, 0 for the others.

    Missing becomes all zeros. With scale 2 a column has a spread near 1, like a standardised
    number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["category"]
    name: Text
    column: Text
    levels: Annotated[tuple[Code, ...], Field(min_length=2, max_length=100)]
    labels: tuple[Text, ...] = ()
    scale: Annotated[float, Field(gt=0, le=10)] = 2.0
    missing: tuple[Code, ...] = ()
    code: Text | None = None
    code_system: CodeSystem = None
    unmapped: Unmapped = "refuse"
    meaning: Meaning

    @model_validator(mode="after")
    def _levels(self) -> "CategoryVariable":
        if len(set(self.levels)) != len(self.levels):
            raise ValueError(f"{self.name}: a level stands twice")
        _apart(self.name, levels=self.levels, missing=self.missing)
        if self.labels and len(self.labels) != len(self.levels):
            raise ValueError(f"{self.name}: labels must match levels one to one")
        return self


class BooleanVariable(BaseModel):
    """Yes or no. The model sees +scale or -scale; missing becomes 0."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["boolean"]
    name: Text
    column: Text
    true: Annotated[tuple[Code, ...], Field(min_length=1)]
    false: Annotated[tuple[Code, ...], Field(min_length=1)]
    scale: Annotated[float, Field(gt=0, le=10)] = 1.0
    missing: tuple[Code, ...] = ()
    code: Text | None = None
    code_system: CodeSystem = None
    unmapped: Unmapped = "refuse"
    meaning: Meaning

    @model_validator(mode="after")
    def _codes(self) -> "BooleanVariable":
        _apart(self.name, true=self.true, false=self.false, missing=self.missing)
        return self


Variable = Annotated[
    NumberVariable | CategoryVariable | BooleanVariable, Field(discriminator="kind")
]


class Target(BaseModel):
    """What the model predicts: codes that mean yes and codes that mean no. A missing label is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Text
    column: Text
    positive: Annotated[tuple[Code, ...], Field(min_length=1)]
    negative: Annotated[tuple[Code, ...], Field(min_length=1)]
    code: Text | None = None
    code_system: CodeSystem = None
    meaning: Meaning

    @model_validator(mode="after")
    def _codes(self) -> "Target":
        _apart(self.name, positive=self.positive, negative=self.negative)
        return self

    @property
    def codes(self) -> dict[str, int]:
        """Return what each code means: 1 yes, 0 no."""
        return dict.fromkeys(self.negative, 0) | dict.fromkeys(self.positive, 1)


class Contract(BaseModel):
    """All variables of a study, its expression if it has any, and its target."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Text
    version: Annotated[int, Field(ge=1)]
    variable: Annotated[tuple[Variable, ...], Field(max_length=20_000)] = ()
    expression: Expression | None = None
    target: Target

    @model_validator(mode="after")
    def _names(self) -> "Contract":
        if not self.variable and self.expression is None:
            raise ValueError("a contract needs a variable or an expression")
        refuse_doubles("variable", (variable.name for variable in self.variable))
        columns = {variable.column for variable in self.variable}
        if self.target.column in columns:
            raise ValueError(f"the target column {self.target.column} is also a variable")
        if self.expression is not None:
            both = sorted((columns | {self.target.column}).intersection(self.expression.columns))
            if both:
                raise ValueError(f"a gene is also a variable or the target: {', '.join(both[:5])}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns that are codes or numbers as text: variables, then the target; no genes."""
        return (*dict.fromkeys(variable.column for variable in self.variable), self.target.column)


def _apart(name: str, **meanings: tuple[str, ...]) -> None:
    """Refuse a code that means two things.

    Raises:
        ValueError: says which code and which meanings.
    """
    seen: dict[str, str] = {}
    for meaning, codes in meanings.items():
        for code in codes:
            if seen.setdefault(code, meaning) != meaning:
                raise ValueError(f"{name}: the code {code!r} is both {seen[code]} and {meaning}")
