"""A hospital's own units and codes, brought to the contract's before anything else sees the table.

The contract says which units it accepts and how they convert; the hospital says which unit its column has
(`[[dataset]] units`), and brings its own map from its codes to the contract's (`[[dataset]] maps`). Codes are
opaque: no code system is shipped, and a licensed map stays at the hospital. Whatever reads the table (training,
Table 1, pre-flight) sees the same.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from solblom_models.tabular.table_file import NUMBER, Table
from solblom_protocol.contracts.table import (
    AcceptedUnit,
    BooleanVariable,
    CategoryVariable,
    Contract,
    NumberVariable,
    Target,
    Variable,
)
from solblom_protocol.errors import DataError
from solblom_verify.canonical import digest
from solblom_verify.wording import counted

MAX_MAP_BYTES = 64 * 2**20  # all of ICD-10 to ICD-11 has less than 4 MB
MAX_CODE_CHARACTERS = 300
_PLAIN = re.compile(r"[ -~]{0,60}")
_Coded = CategoryVariable | BooleanVariable | Target


@dataclass(frozen=True)
class CodeMap:
    """A hospital's map from its own codes to a contract's.

    Attributes:
        codes: what each of the hospital's codes becomes.
        digest: SHA-256 of the file.
        system: the code system of the codes that come out, where the file says so.
        version: of the map or the system, where the file says so.
    """

    codes: Mapping[str, str] = field(repr=False)
    digest: str
    system: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Harmonisation:
    """What node.toml says of a data set: units and maps by the name of the contract's variable."""

    units: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Harmonised:
    """A table in the contract's units and codes, and what it took. Stays inside the hospital.

    Attributes:
        table: the table.
        notes: what was converted, mapped and left out, counted; names maps by digest.
        unmapped: by variable, the codes that the contract does not list, and how often each occurs.
        problems: by variable, why its unit or map cannot be used.
    """

    table: Table
    notes: Mapping[str, int]
    unmapped: Mapping[str, Mapping[str, int]] = field(repr=False)
    problems: Mapping[str, str]


def harmonise(table: Table, contract: Contract, given: Harmonisation) -> Table:
    """Return the table in the contract's units and codes.

    Raises:
        DataError: SB-313 a unit that the contract does not accept, a map that cannot be used, or codes that the
            contract does not list and wants refused.
    """
    found = look_at(table, contract, given)
    for name, problem in found.problems.items():
        raise DataError("SB-313", f"`{name}`: {problem}")
    for variable in (*contract.variable, contract.target):
        values = sum(found.unmapped.get(variable.name, {}).values())
        # Without a map, reading the column says what is wrong with it (SB-302).
        if values and variable.name in given.maps and not is_forgiving(variable):
            raise DataError(
                "SB-313",
                f"`{variable.name}`: {counted(values, 'value has', 'values have')} a code that the hospital's map "
                "does not bring to one of the contract's",
            )
    return found.table


def look_at(table: Table, contract: Contract, given: Harmonisation) -> Harmonised:
    """Return the table as far as it can be harmonised, and everything that is wrong; raises nothing."""
    columns = dict(table.columns)
    notes: dict[str, int] = dict(table.notes)
    unmapped: dict[str, Mapping[str, int]] = {}
    problems: dict[str, str] = {}
    shared = Counter([v.column for v in contract.variable])
    for variable in (*contract.variable, contract.target):
        if variable.column not in columns:
            continue  # reading the column says so (SB-301)
        wanted = variable.name in given.units or variable.name in given.maps
        if wanted and shared[variable.column] > 1:
            problems[variable.name] = "another variable of the contract has the same column"
            continue
        cells = columns[variable.column]
        try:
            if isinstance(variable, NumberVariable):
                columns[variable.column] = _converted(variable, cells, given, notes)
            elif wanted or is_forgiving(variable):
                new, left = _mapped(variable, cells, given, notes)
                unmapped[variable.name] = left
                if shared[variable.column] <= 1:
                    columns[variable.column] = new
        except ValueError as error:
            problems[variable.name] = str(error)
    return Harmonised(replace(table, columns=columns, notes=notes), notes, unmapped, problems)


def is_forgiving(variable: Variable | Target) -> bool:
    """Tell whether a code that the contract does not list counts as missing. Never for the target."""
    return getattr(variable, "unmapped", "refuse") == "missing"


def codes_of(variable: Variable | Target) -> frozenset[str]:
    """Return the codes that the contract lists for a variable that has codes, without those of missing."""
    if isinstance(variable, CategoryVariable):
        return frozenset(variable.levels)
    if isinstance(variable, Target):
        return frozenset((*variable.positive, *variable.negative))
    if isinstance(variable, NumberVariable):
        return frozenset()
    return frozenset((*variable.true, *variable.false))


def read_map(path: Path) -> CodeMap:
    """Read a hospital's map: CSV with the columns from and to, and perhaps system and version.

    Raises:
        ValueError: it cannot be read, or does not say one thing for each code; the text names no code.
    """
    try:
        if path.stat().st_size > MAX_MAP_BYTES:
            raise ValueError(f"the map is larger than {MAX_MAP_BYTES} bytes")
        data = path.read_bytes()
        rows = list(csv.reader(data.decode("utf-8-sig").splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise ValueError("the map cannot be read as UTF-8 CSV") from None
    header = tuple(name.strip() for name in rows[0]) if rows else ()
    allowed = {"from", "to", "system", "version"}
    if not {"from", "to"} <= set(header) <= allowed or len(set(header)) != len(header):
        raise ValueError("the map needs the columns from and to, and may have system and version")
    codes: dict[str, str] = {}
    besides: dict[str, set[str]] = {"system": set(), "version": set()}
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(header) or max(map(len, row)) > MAX_CODE_CHARACTERS:
            raise ValueError(f"line {line} of the map is not a row of its columns")
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        if not cells["from"] or not cells["to"]:
            raise ValueError(f"line {line} of the map has an empty code")
        if codes.setdefault(cells["from"], cells["to"]) != cells["to"]:
            raise ValueError(f"line {line} of the map gives a code a second meaning")
        for name, values in besides.items():
            values.add(cells.get(name, ""))
    system, version = (_the_one(name, values) for name, values in besides.items())
    return CodeMap(codes, digest(data), system, version)


def _the_one(name: str, values: set[str]) -> str | None:
    values.discard("")
    if len(values) > 1:
        raise ValueError(f"the map names more than one {name}")
    value = next(iter(values), None)
    if value is not None and not _PLAIN.fullmatch(value):
        raise ValueError(f"the map's {name} is not plain text")
    return value


def _converted(
    variable: NumberVariable, cells: tuple[str, ...], given: Harmonisation, notes: dict[str, int]
) -> tuple[str, ...]:
    """Return numbers in the contract's unit, as text; missing codes and what is no number stay as they are."""
    if variable.name in given.maps:
        raise ValueError("a map is for codes, and the variable is a number")
    unit = given.units.get(variable.name, variable.unit)
    if unit == variable.unit:
        return cells
    accepted = next((a for a in variable.accepts if a.unit == unit), None)
    if accepted is None:
        known = ", ".join((variable.unit, *(a.unit for a in variable.accepts)))
        raise ValueError(f"the contract does not accept the unit {unit}; it accepts {known}")
    spared = {"", *variable.missing}
    found = tuple(
        cell if cell in spared or not NUMBER.fullmatch(cell) else _spelt(cell, accepted, spared)
        for cell in cells
    )
    changed = sum(1 for old, new in zip(cells, found, strict=True) if old != new)
    notes[f"values of {variable.name} converted from {unit} to {variable.unit}"] = changed
    return found


def _spelt(cell: str, accepted: AcceptedUnit, codes: set[str]) -> str:
    """Return a converted number in its shortest exact spelling, which is never that of a missing code."""
    text = repr(float(cell) * accepted.factor + accepted.offset)
    return f"+{text}" if text in codes else text


def _mapped(
    variable: _Coded, cells: tuple[str, ...], given: Harmonisation, notes: dict[str, int]
) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """Return the contract's codes, and the cells that have none, counted.

    With a map every code goes through it: one that happens to look like a code of the contract may mean something
    else in the hospital's system.
    """
    if variable.name in given.units:
        raise ValueError("a unit is for numbers, and the variable has codes")
    code_map = read_map(given.maps[variable.name]) if variable.name in given.maps else None
    if code_map is not None and code_map.system not in (None, variable.code_system):
        wanted = variable.code_system or "no code system"
        raise ValueError(f"the map leads to {code_map.system}; the contract names {wanted}")
    known, missing = codes_of(variable), {"", *getattr(variable, "missing", ())}
    left: Counter[str] = Counter()
    found = []
    for cell in cells:
        code = cell if code_map is None else code_map.codes.get(cell, "")
        if cell in missing:
            found.append(cell)
        elif code in known:
            found.append(code)
        else:
            left[cell] += 1
            found.append("")
    if code_map is not None:
        by = code_map.digest + ("" if code_map.version is None else f" ({code_map.version})")
        through = sum(1 for cell in cells if cell not in missing) - sum(left.values())
        notes[f"values of {variable.name} mapped by {by}"] = through
    if left and is_forgiving(variable):
        notes[f"values of {variable.name} without a code of the contract, taken as missing"] = sum(
            left.values()
        )
    return tuple(found), dict(left)
