"""The part of a pre-flight that opens the data: a table column by column, other sources as their task reads them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from solblom_client.checks.data_quality import (
    LEAK_AUROC,
    MANY_MISSING,
    column_leaks,
    enough_of_both,
    identical_rows,
    leaks,
    missing_shares,
    more_than_chance,
    wrong_values,
)
from solblom_client.checks.finding import Checklist, Light, Seen
from solblom_client.cohorts.cohort import Cohort
from solblom_client.connectors.sources import open_source
from solblom_client.connectors.table import harmonisation, read_as_it_stands
from solblom_client.policy import DatasetTable, NodeConfig
from solblom_models.patient_id import check_ids, patient_id
from solblom_models.tabular.data import labels_of, table_contract
from solblom_models.tabular.harmonise import Harmonised, is_forgiving, look_at
from solblom_models.tabular.table_file import Table
from solblom_models.task import NotedUnits, Task, Units
from solblom_protocol.contracts.table import Contract
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import counted

SHOWN = 20


@dataclass(frozen=True)
class Looked:
    """Data that can be read, and what a look for leaks needs of them."""

    units: Units
    table: Table | None = None
    contract: Contract | None = None
    places: Mapping[str, int] = field(default_factory=dict)

    def leakage(self, cohort: Cohort) -> Seen:
        """Look for a variable that alone gives the outcome away, among patients who take part."""
        labels = np.asarray(cohort.everybody.labels)
        if not enough_of_both(labels) or len(set(labels.tolist())) > 2:
            return Light.OK, "too few of a class, or many labels: not judged"
        if self.table is not None and self.contract is not None:
            rows = [self.places[patient_id(text)] for text in cohort.everybody.ids]
            whole = labels_of(self.table, self.contract.target)
            found = leaks(self.table, self.contract, whole, rows)
        else:
            features = getattr(cohort.everybody, "features", None)
            if not isinstance(features, np.ndarray) or features.ndim != 2:
                return Light.OK, "this kind of data has no single variables: not judged"
            found = column_leaks(features, labels)
        if not found:
            return Light.OK, f"no variable alone has an AUROC above {LEAK_AUROC}"
        lines = tuple(f"{name}: {area:.3f}" for name, area in sorted(found.items()))[:SHOWN]
        return (
            Light.STOP,
            f"{counted(len(found), 'variable')} alone tell who has the outcome",
            "Was it written after the diagnosis, or from it? Talk to the researcher",
            lines,
        )


def look_at_data(
    checks: Checklist,
    config: NodeConfig,
    document: StudyDocument,
    task: Task,
    dataset: DatasetTable,
) -> Looked | None:
    """Note what the data are like; return them where a study could read them."""
    if dataset.connector == "table" and isinstance(document.contract, Contract):
        return _look_at_table(checks, config, document, task, dataset)
    source = checks.get("schema", lambda: open_source(config, dataset, document.contract))
    if source is None:
        return None
    units = checks.get("schema", lambda: task.read_units(source, document))
    if units is None:
        return None
    notes = dict(units.notes) if isinstance(units, NotedUnits) else {}
    lines = tuple(f"{count:,} {what}" for what, count in notes.items())
    checks.note("schema", (Light.OK, "readable by the contract", "", lines))
    for name in ("units and codes", "values", "missing values"):
        checks.note(name, (Light.OK, "read as the contract says; see what was counted above"))
    if not _patients(checks, units.ids):
        return None
    checks.note("identical rows", _identical_units(units))
    return Looked(units)


def _look_at_table(
    checks: Checklist,
    config: NodeConfig,
    document: StudyDocument,
    task: Task,
    dataset: DatasetTable,
) -> Looked | None:
    contract = table_contract(document)
    raw = checks.get("schema", lambda: read_as_it_stands(config, dataset, contract))
    if raw is None:
        return None
    checks.note("schema", _schema(raw, contract))
    seen = look_at(raw, contract, harmonisation(config, dataset))
    checks.note("units and codes", _units_and_codes(seen, contract, dataset))
    checks.note("values", _values(seen.table, contract))
    checks.note("missing values", _missing(seen.table, contract))
    whole = _patients(checks, raw.ids)
    checks.note("identical rows", _identical(seen.table, contract))
    stops = [checks.found[name].light for name in ("schema", "units and codes", "values")]
    if Light.STOP in stops or not whole:
        return None
    units = checks.get("values", lambda: task.read_units(seen.table, document))
    if units is None:
        return None
    places = {patient: row for row, patient in enumerate(raw.ids)}
    return Looked(units, seen.table, contract, places)


def _schema(table: Table, contract: Contract) -> Seen:
    absent = [name for name in contract.columns if name not in table.columns]
    if absent:
        return (
            Light.STOP,
            f"{counted(len(absent), 'column is', 'columns are')} missing (SB-301)",
            "Compare the table's header with the contract",
            tuple(absent[:SHOWN]),
        )
    genes = () if table.genes is None else table.genes.absent
    if genes:
        text = f"{counted(len(genes), 'gene has', 'genes have')} no column"
        return Light.ATTENTION, text, "They count as the contract's center", genes[:SHOWN]
    return Light.OK, f"{counted(len(table.ids), 'row')}, all columns of the contract"


def _units_and_codes(seen: Harmonised, contract: Contract, dataset: DatasetTable) -> Seen:
    if seen.problems:
        lines = tuple(f"{name}: {problem}" for name, problem in seen.problems.items())
        return Light.STOP, "a unit or a map does not fit (SB-313)", "Correct node.toml", lines
    forgiven: list[str] = []
    refused: list[str] = []
    for variable in (*contract.variable, contract.target):
        left = seen.unmapped.get(variable.name, {})
        shown = [f"{variable.name}: {code} ({n})" for code, n in Counter(left).most_common(SHOWN)]
        (forgiven if is_forgiving(variable) else refused).extend(shown)
    if refused:
        todo = "Add these codes to the map, or agree with the researcher what they are"
        return Light.STOP, "codes that the map does not know (SB-313)", todo, tuple(refused)
    if forgiven:
        todo = "Each counts as missing, as the contract says; add them to the map if they mean something"
        return Light.ATTENTION, "codes without one of the contract's", todo, tuple(forgiven)
    names = {variable.name for variable in (*contract.variable, contract.target)}
    unknown = sorted((set(dataset.units) | set(dataset.maps)) - names)
    if unknown:
        text = f"node.toml names what this contract lacks: {', '.join(unknown)}"
        return Light.ATTENTION, text, "Right if another study has them; check the spelling"
    lines = tuple(f"{count:,} {what}" for what, count in seen.notes.items())
    return Light.OK, "as the contract says", "", lines


def _values(table: Table, contract: Contract) -> Seen:
    wrong = list(wrong_values(table, contract))
    codes = set(contract.target.codes)
    cells = table.columns.get(contract.target.column, ())
    unknown = sum(1 for cell in cells if cell not in codes)
    if unknown:
        wrong.append(f"the target has no known code in {counted(unknown, 'row')}")
    if wrong:
        todo = "Correct them, or declare a missing code or a unit with the researcher"
        return (
            Light.STOP,
            f"{counted(len(wrong), 'variable')} with wrong values",
            todo,
            tuple(wrong),
        )
    return Light.OK, "every value is of its type and in its range"


def _missing(table: Table, contract: Contract) -> Seen:
    shares = missing_shares(table, contract)
    many = {name: share for name, share in shares.items() if share > MANY_MISSING}
    lines = tuple(f"{name}: {share:.0%}" for name, share in shares.items() if share > 0)
    if many:
        text = f"{counted(len(many), 'variable')} with more than {MANY_MISSING:.0%} missing; all with any:"
        return Light.ATTENTION, text, "Is the right column named, and every code known?", lines
    most = max(shares.values(), default=0.0)
    return Light.OK, f"at most {most:.0%} of a variable", "", lines


def _patients(checks: Checklist, ids: tuple[str, ...]) -> bool:
    """Note whether each patient stands once, under an id."""

    def once() -> Seen:
        check_ids(ids)
        return Light.OK, f"{counted(len(ids), 'patient')}, each once"

    checks.check("patients", once)
    return checks.found["patients"].light is Light.OK


def _identical(table: Table, contract: Contract) -> Seen:
    if len(table.ids) < 2 or any(name not in table.columns for name in contract.columns):
        return Light.OK, "no two rows to compare"
    pairs, expected = identical_rows(table, contract)
    text = (
        f"{counted(pairs, 'pair')} of patients with the same row; about {expected:.1f} by chance"
        if pairs
        else "no two patients have the same row"
    )
    if more_than_chance(pairs, expected):
        return Light.ATTENTION, text, "One patient under two ids would count twice: look at them"
    return Light.OK, text


def _identical_units(units: Units) -> Seen:
    rows = Counter(units.row_bytes(index) for index in range(len(units.ids)))
    pairs = sum(count * (count - 1) // 2 for count in rows.values())
    if pairs:
        text = f"{counted(pairs, 'pair')} of patients with the same data"
        return Light.ATTENTION, text, "One patient under two ids would count twice: look at them"
    return Light.OK, "no two patients have the same data"
