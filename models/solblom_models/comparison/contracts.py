"""In which variables two data contracts differ. No torch: a steward's page reads it too."""

from collections.abc import Mapping
from typing import Any

Contract = Mapping[str, Any]
"""A contract as JSON."""


def differing_variables(old: Contract, new: Contract) -> list[dict[str, Any]]:
    """Return what one contract has and the other has not, or has otherwise; empty where they ask for the same.

    Each entry has `what` (`variable age`, `target`, `encoder` …), `old` and `new`: None where it is missing there, else
    the members that differ.
    """
    ours, theirs = _parts(old), _parts(new)
    found = []
    for name in sorted(set(ours) | set(theirs)):
        one, other = ours.get(name), theirs.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            keys = [key for key in sorted(set(one) | set(other)) if one.get(key) != other.get(key)]
            one = {key: one.get(key) for key in keys}
            other = {key: other.get(key) for key in keys}
        found.append({"what": name, "old": one, "new": other})
    return found


def _parts(contract: Contract) -> dict[str, Any]:
    """Return a contract's parts by name; what a variable means to people is no difference of data."""
    parts: dict[str, Any] = {}
    for variable in contract.get("variable") or ():
        parts[f"variable {variable.get('name')}"] = _without_meaning(variable)
    for name, value in contract.items():
        if name not in ("variable", "name", "version", "meaning"):
            parts[name] = _without_meaning(value) if isinstance(value, dict) else value
    return parts


def _without_meaning(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if name != "meaning"}
