"""How old somebody was, in years, from what a phenopacket may say of time.

Durations are ISO 8601 (`P3Y2M`), a range counts as its middle, a class of onset as the middle of its
definition in the HPO. Before birth is 0. A class that is open upwards, such as adult onset, has no middle.
"""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

MAX_YEARS = 130.0
_DAYS = 365.25
_NUMBER = r"([0-9]{1,6}(?:[.,][0-9]{1,6})?)"
_DURATION = re.compile(
    rf"P(?=.)(?:{_NUMBER}Y)?(?:{_NUMBER}M)?(?:{_NUMBER}W)?(?:{_NUMBER}D)?"
    rf"(?:T(?=.)(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?"
)
# Years of one unit, in the order of the groups above.
_UNITS = (1.0, 1 / 12, 7 / _DAYS, 1 / _DAYS, 1 / _DAYS / 24, 1 / _DAYS / 1440, 1 / _DAYS / 86400)
ONSET_YEARS = {
    "HP:0030674": 0.0,  # antenatal
    "HP:0011460": 0.0,  # embryonal
    "HP:0011461": 0.0,  # fetal
    "HP:0034199": 0.0,  # late first trimester
    "HP:0034198": 0.0,  # second trimester
    "HP:0034197": 0.0,  # third trimester
    "HP:0003577": 0.0,  # congenital: at birth
    "HP:0003623": 14 / _DAYS,  # neonatal: first 28 days
    "HP:0003593": (28 / _DAYS + 1) / 2,  # infantile: 28 days to 1 year
    "HP:0011463": 3.0,  # childhood: 1 to 5 years
    "HP:0003621": 10.0,  # juvenile: 5 to 15 years
    "HP:0410280": (28 / _DAYS + 16) / 2,  # paediatric: before 16 years, after the newborn
    "HP:0011462": 28.0,  # young adult: 16 to 40 years
    "HP:0025708": 17.5,  # early young adult: 16 to 19 years
    "HP:0025709": 22.0,  # intermediate young adult: 19 to 25 years
    "HP:0025710": 32.5,  # late young adult: 25 to 40 years
    "HP:0003596": 50.0,  # middle age: 40 to 60 years
}


def duration_years(text: object) -> float | None:
    """Return an ISO 8601 duration in years; None where it is none, or no age of a person."""
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        return None
    numbers = [float(group.replace(",", ".")) if group else 0.0 for group in match.groups()]
    years = sum(number * unit for number, unit in zip(numbers, _UNITS, strict=True))
    return years if years <= MAX_YEARS else None


def age_years(element: Mapping[str, Any], *, born: object = None) -> float | None:
    """Return the age that a GA4GH TimeElement states; None where it cannot be told.

    A date counts only beside `born`, the subject's date of birth.
    """
    if "age" in element:
        return _age(element["age"])
    if "ageRange" in element:
        return _range(element["ageRange"])
    if "gestationalAge" in element:
        return 0.0 if isinstance(element["gestationalAge"], Mapping) else None
    if "ontologyClass" in element:
        named = element["ontologyClass"]
        found = named.get("id") if isinstance(named, Mapping) else None
        return ONSET_YEARS.get(found.strip().upper()) if isinstance(found, str) else None
    return _between(born, element.get("timestamp"))


def _age(value: object) -> float | None:
    return duration_years(value.get("iso8601duration")) if isinstance(value, Mapping) else None


def _range(value: object) -> float | None:
    if not isinstance(value, Mapping):
        return None
    start, end = _age(value.get("start")), _age(value.get("end"))
    return (start + end) / 2 if start is not None and end is not None and start <= end else None


def _between(born: object, seen: object) -> float | None:
    if not (isinstance(born, str) and isinstance(seen, str)):
        return None
    try:
        days = (dt.date.fromisoformat(seen[:10]) - dt.date.fromisoformat(born[:10])).days
    except ValueError:
        return None
    return days / _DAYS if 0 <= days <= MAX_YEARS * _DAYS else None
