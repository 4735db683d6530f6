"""Statistics and tables of `utility.py`: paired differences with Nadeau and Bengio's corrected interval."""

from typing import Any

import numpy as np
from report import Table
from scipy import stats

Seed = dict[str, Any]
"""Of one seed: method -> {all, within, sites}, and facts about the split and the references."""


def summary(found: list[Seed], method: str, pooled: str, ratio: float) -> dict[str, Any]:
    """Return a method's mean and spread, and its paired difference to `pooled`; ratio = n_test / n_train."""
    summary: dict[str, Any] = {}
    for kind, name in (("all", "difference"), ("within", "difference_within")):
        values = np.array([f[method][kind] for f in found])
        summary[kind] = {"mean": float(values.mean()), "sd": float(values.std(ddof=1))}
        differences = values - np.array([f[pooled][kind] for f in found])
        mean, spread, count = float(differences.mean()), float(differences.std(ddof=1)), len(found)
        half = float(stats.t.ppf(0.975, count - 1)) * spread * (1 / count + ratio) ** 0.5
        error = spread / count**0.5
        summary[name] = {"mean": mean, "se": error, "low": mean - half, "high": mean + half}
    return summary


def main_table(methods: list[str], summary: dict[str, Any], pooled: str) -> Table:
    """Return AUROC over all hospitals and within them, beside the reference."""
    rows = []
    for method in methods:
        s, same = summary[method], method == pooled
        d, w = s["difference"], s["difference_within"]
        rows.append((
            method,
            f"{s['all']['mean']:.4f}",
            f"{s['all']['sd']:.4f}",
            "reference" if same else signed(d["mean"]),
            "" if same else f"{d['se']:.4f}",
            "" if same else interval(d),
            f"{s['within']['mean']:.4f}",
            "" if same else f"{signed(w['mean'])} {interval(w)}",
        ))  # fmt: skip
    columns = (
        "method",
        "AUROC",
        "sd",
        "difference",
        "SE",
        "95 %",
        "within hospitals",
        "difference, 95 %",
    )
    return Table("AUROC on the union of the test sets, mean over seeds", columns, tuple(rows))


def site_table(methods: list[str], found: list[Seed]) -> Table:
    """Return AUROC by hospital."""
    names = sorted(found[0]["test"])
    rows = []
    for method in methods:
        cells = []
        for name in names:
            shown = [v for v in (f[method]["sites"][name] for f in found) if v is not None]
            cells.append(f"{np.mean(shown):.3f} ({len(shown)})" if shown else "not shown (0)")
        rows.append((method, *cells))
    title = (
        "AUROC by hospital, mean over the seeds (how many) with five test patients of each class"
    )
    return Table(title, ("method", *names), tuple(rows))


def mean(found: list[Seed], method: str, kind: str) -> float:
    """Return the mean of a figure over the seeds."""
    return float(np.mean([f[method][kind] for f in found]))


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+.4f}"


def interval(d: dict[str, float]) -> str:
    """Return an interval of a difference."""
    return f"[{signed(d['low'])}, {signed(d['high'])}]"
