"""A comparison for a person: no patient is named, and what a manifest says cannot steer the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from solblom_models.comparison.patients import harmless
from solblom_protocol.console import out, say
from solblom_verify.wording import counted

SHOWN = 12  # differences of one kind
FIGURES = {
    "auroc": "AUROC",
    "auprc": "average precision",
    "brier": "Brier score (less is better)",
    "top_1": "disease first",
    "top_10": "among the first 10",
    "mrr": "mean reciprocal rank",
}
SHARES = {
    "same_class": "same class",
    "same_tenth": "same tenth of probability",
    "same_first": "same first disease",
    "same_first_ten": "same first ten",
    "within_tolerance": "within the tolerance",
}
NUMBERS = {
    "shared_of_first_ten": "of the first ten, shared",
    "largest_delta": "largest difference",
    "mean_delta": "mean difference",
}


def show_comparison(body: Mapping[str, Any]) -> None:
    """Print a comparison's record."""
    console = out()
    names = [body[which]["ref"] for which in ("old", "new")]
    if names[0] == names[1]:  # of two registries
        names = [f"{body[which]['ref']} ({body[which]['model'][:15]}…)" for which in ("old", "new")]
    count = body["patients"]
    patients = "1 to 4 patients" if count is None else counted(count, "patient")
    console.print(f"{names[0]} → {names[1]}, {patients}", style="bold", markup=False)
    _show_agreement(body)
    _show_performance(body["performance"])
    for kind in ("data", "code", "settings", "privacy"):
        _show_differences(kind, body[f"differences_in_{kind}"])
    for note in body["notes"]:
        say(f"{note}.")
    for words, number in body["left_out"].items():
        say(f"{'1 to 4 cases' if number is None else counted(number, 'case')} {words}")
    say("Computed from patients without noise: it must not leave this hospital.")


def _show_agreement(body: Mapping[str, Any]) -> None:
    found, console = body["agreement"], out()
    if found["reason"] is not None:
        console.print(f"  no figures: {found['reason']}", markup=False)
        return
    table = Table(box=None, show_header=False)
    for name, words in SHARES.items():
        if name in found:
            share = found[name]
            shown = f"{share:.1%}" if share is not None else "all but 1 to 4, or only 1 to 4"
            table.add_row(words, shown)
    for name, words in NUMBERS.items():
        if name in found:
            table.add_row(words, f"{found[name]:.6f}")
    table.add_row("flips", _flips(body["flips"]))
    console.print(table)


def _flips(found: Mapping[str, Any]) -> str:
    if found["patients"] is None:
        return str(found["reason"])
    if found.get("to_yes") is None:
        return str(found["patients"])
    return f"{found['patients']}: {found['to_yes']} to yes, {found['to_no']} to no"


def _show_performance(found: Mapping[str, Any] | None) -> None:
    if found is None:
        return
    if found["reason"] is not None:
        out().print(f"  gain is not shown: {found['reason']}", markup=False)
        return
    table = Table("", "old", "new", "new minus old, 95 % interval", box=None)
    for name, words in FIGURES.items():
        if name in found:
            old, new, gained = (found[name][part] for part in ("old", "new", "difference"))
            if old is None or new is None or gained is None:
                table.add_row(words, "not shown", "", "")
                continue
            interval = f"{gained[0]:+.4f} [{gained[1]:+.4f}, {gained[2]:+.4f}]"
            table.add_row(words, f"{old[0]:.4f}", f"{new[0]:.4f}", interval)
    out().print(table)
    if found.get("delong_p") is not None:
        out().print(f"  DeLong, equal AUROC: p = {_p(found['delong_p'])}", markup=False)
    if found.get("mcnemar"):
        out().print(f"  McNemar, right equally often: {_mcnemar(found['mcnemar'])}", markup=False)
    if found.get("tests"):
        out().print(f"  tests {found['tests']}", markup=False)


def _mcnemar(found: Mapping[str, Any]) -> str:
    if found["p"] is None:
        return str(found["reason"])
    if found["only_old_right"] is None:
        return f"p = {_p(found['p'])}"
    parts = f"only old {found['only_old_right']}, only new {found['only_new_right']}"
    return f"p = {_p(found['p'])} ({parts})"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "below 0.0001"


def _show_differences(kind: str, found: list[dict[str, Any]]) -> None:
    if not found:
        out().print(f"{kind}: the same", markup=False)
        return
    table = Table(f"{kind}", "old", "new", box=None, title_justify="left")
    for entry in found[:SHOWN]:
        table.add_row(*(_cell(entry[part]) for part in ("what", "old", "new")))
    out().print(table, markup=False)
    if len(found) > SHOWN:
        say(f"{len(found) - SHOWN} more of {kind}; --json has all of them")


def _cell(value: Any) -> Any:
    from rich.text import Text

    text = "–" if value is None else str(value)
    return Text(harmless(text if len(text) <= 60 else f"{text[:57]}…"))
