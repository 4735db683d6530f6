"""Pictures of a model's evaluation, as SVG that reads in print: shapes and greys, never colour alone.

What is drawn stands in evaluation/report.json of the artefact; nothing is computed here. The same report gives the same
bytes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from solblom_models.metrics import Estimate
from solblom_models.slide_card import DECISIONS
from solblom_models.svg import FONT, svg_drawing

LABELS = {
    "prior": "public knowledge alone",
    "local": "local only",
    "federated": "federated",
    "own_intercept": "federated, own intercept",
    "pooled": "pooled",
}
SHAPES = {"prior": "D", "local": "s", "federated": "o", "own_intercept": "X", "pooled": "^"}
SHADES = {
    "prior": "0.65",
    "local": "0.45",
    "federated": "0.0",
    "own_intercept": "0.0",
    "pooled": "0.25",
}
WIDTH, ROW, MARGIN = 7.2, 0.55, 1.5  # inches: fits a page; of one row; of axes and title


@dataclass(frozen=True)
class Row:
    """One line of a picture: what it is about, and an estimate for each kind of model; None where none is shown."""

    name: str
    estimates: Mapping[str, Estimate | None]


def pictures(evaluation: Mapping[str, Any], *, title: str) -> dict[str, bytes]:
    """Return SVG files by name; empty where the report has nothing to draw.

    Raises:
        ConfigurationError: SB-118, matplotlib is not installed.
    """
    draw = _drawing()
    banner = "simulation, exact" if evaluation.get("simulation") else "released with noise"
    found: dict[str, bytes] = {}
    if evaluation.get("sites"):
        ranked = evaluation.get("measure") == "ranking"
        found = (
            _of_rankings(evaluation, draw, title) if ranked else _of_tables(evaluation, draw, title)
        )
    for record in evaluation.get("released", []):
        if record.get("kind") == "evaluate" and record.get("status") == "released":
            rows = _released_rows(record["metrics"])
            if rows:
                name = f"released-{record['number']}.svg"
                found[name] = draw(rows, f"{title}: released with noise", "share, 95 % interval")
            points = _calibration_rows(record["metrics"])
            if points:
                name = f"calibration-{record['number']}.svg"
                found[name] = draw(
                    points, f"{title}: calibration ({banner})", "observed share with disease"
                )
    return found


_Draw = Callable[[Sequence[Row], str, str], bytes]


def _of_rankings(evaluation: Mapping[str, Any], draw: _Draw, title: str) -> dict[str, bytes]:
    whole = evaluation["all"]
    kinds = [kind for kind in LABELS if kind in whole]
    recall = [
        Row(words, {kind: _listed(whole[kind].get(name)) for kind in kinds})
        for name, words in (
            ("top_1", "first"),
            ("top_5", "among the first 5"),
            ("top_10", "among the first 10"),
            ("mrr", "mean reciprocal rank"),
            ("macro_top_1", "first, mean over diseases"),
            ("rare_top_1", "first, rare diseases"),
        )
        if name in whole["federated"]
    ]
    sites = [
        Row(site["site"], {k: _listed(site["metrics"][k].get("top_1")) for k in kinds})
        for site in evaluation["sites"]
    ]
    groups = [
        Row(f"{name.replace('_', ' ')}: {value}", {"federated": _listed(group.get("top_1"))})
        for name, values in evaluation["subgroups"].items()
        for value, group in sorted(values.items(), key=lambda item: _from(item[0]))
    ]
    return {
        "recall.svg": draw(
            recall, f"{title}: all test patients (simulation)", "share, 95 % interval"
        ),
        "hospitals.svg": draw(
            sites, f"{title}: disease first, by hospital (simulation)", "share, 95 % interval"
        ),
        "subgroups.svg": draw(
            groups, f"{title}: disease first, by group (simulation)", "share, 95 % interval"
        ),
    }


def _of_tables(evaluation: Mapping[str, Any], draw: _Draw, title: str) -> dict[str, bytes]:
    whole = evaluation["all"]
    # An intercept changes no order of patients, so its areas are those of the federated model.
    kinds = [kind for kind in LABELS if kind in whole and kind != "own_intercept"]
    hospitals = {site["site"]: site["metrics"] for site in evaluation["sites"]}
    hospitals["all together"] = whole

    def rows(read: Callable[[Mapping[str, Any]], Estimate | None], shown: list[str]) -> list[Row]:
        return [Row(n, {kind: read(of[kind]) for kind in shown}) for n, of in hospitals.items()]

    by = f"{title}: by hospital (simulation)"
    found = {
        "hospitals.svg": draw(rows(_auroc, kinds), by, "AUROC, 95 % interval"),
        "precision.svg": draw(
            rows(lambda m: _listed(m.get("auprc")), kinds), by, "average precision, 95 % interval"
        ),
        "calibration.svg": draw(
            rows(_calibration_gap, [kind for kind in LABELS if kind in whole]),
            by,
            "gap of probability and outcome; 0 is best",
        ),
    }
    found |= _of_decisions(evaluation, kinds, draw, title)
    groups = [
        Row(f"{name.replace('_', ' ')}: {value}", {"federated": _auroc(group)})
        for name, values in evaluation.get("subgroups", {}).items()
        for value, group in sorted(values.items(), key=lambda item: _from(item[0]))
    ]
    if groups:
        of = f"{title}: by group (simulation)"
        found["subgroups.svg"] = draw(groups, of, "AUROC, 95 % interval")
    return found


def _of_decisions(
    evaluation: Mapping[str, Any], kinds: Sequence[str], draw: _Draw, title: str
) -> dict[str, bytes]:
    """Return what slides and tiles have besides: figures of a yes or no, and what each hospital gained."""
    if evaluation.get("measure") not in ("slides", "tiles"):
        return {}
    whole = evaluation["all"]
    decisions = [
        Row(words, {kind: _listed(whole[kind].get(name)) for kind in kinds})
        for name, words in DECISIONS.items()
    ]
    gains = [
        Row(site["site"], {"federated": _listed(site["federated_minus_local"].get("auroc"))})
        for site in evaluation["sites"]
    ]
    return {
        "decisions.svg": draw(
            decisions, f"{title}: all test patients (simulation)", "value, 95 % interval"
        ),
        "gain.svg": draw(
            gains,
            f"{title}: what each hospital gained (simulation)",
            "AUROC, federated minus local only, paired, 95 % interval",
        ),
    }


def _calibration_gap(metric: Mapping[str, Any]) -> Estimate | None:
    value = metric.get("calibration_error")
    return None if value is None else Estimate(value, value, value)


def _from(band: str) -> tuple[float, str]:
    """Return where a band of ages begins, to put bands in order; canonical JSON puts them by their letters."""
    number = re.search(r"[0-9]+", band)
    begins = -1.0 if band.startswith("below") else math.inf
    return (begins if number is None or begins < 0 else float(number[0])), band


def _auroc(metric: Mapping[str, Any]) -> Estimate | None:
    if metric.get("auroc") is None:
        return None
    low, high = metric["auroc_interval"]
    return Estimate(metric["auroc"], low, high)


def _listed(values: Sequence[float] | None) -> Estimate | None:
    return None if values is None else Estimate(*values)


def _released_rows(metrics: Mapping[str, Any]) -> list[Row]:
    names = {
        "auroc": "AUROC",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "prevalence": "prevalence",
        "top_1": "first",
        "top_5": "among the first 5",
        "top_10": "among the first 10",
    }
    return [
        Row(words, {"federated": Estimate(metrics[name], *metrics[f"{name}_interval"])})
        for name, words in names.items()
        if metrics.get(name) is not None
    ]


def _calibration_rows(metrics: Mapping[str, Any]) -> list[Row]:
    return [
        Row(
            f"score {point['score']:.2f}",
            {"federated": Estimate(point["observed"], *point["observed_interval"])},
        )
        for point in metrics.get("calibration", [])
        if point["observed"] is not None
    ]


def _drawing() -> _Draw:
    """Return the function that draws rows, so that matplotlib is loaded only for pictures."""
    picture = svg_drawing()

    def draw(rows: Sequence[Row], title: str, axis: str) -> bytes:
        size = (WIDTH, MARGIN + ROW * len(rows))
        return picture(lambda figure: _fill(figure.add_subplot(), rows, title, axis), size, title)

    return draw


def _fill(axes: Any, rows: Sequence[Row], title: str, axis: str) -> None:
    kinds = [kind for kind in LABELS if any(kind in row.estimates for row in rows)]
    for number, kind in enumerate(kinds):
        offset = 0.0 if len(kinds) == 1 else 0.6 * (number / (len(kinds) - 1) - 0.5)
        shown = [
            (place + offset, found)
            for place, row in enumerate(rows)
            if (found := row.estimates.get(kind)) is not None
        ]
        places = [place for place, _ in shown]
        values = [found.value for _, found in shown]
        below = [max(found.value - found.low, 0.0) for _, found in shown]
        above = [max(found.high - found.value, 0.0) for _, found in shown]
        axes.errorbar(
            values,
            places,
            xerr=[below, above],
            fmt=SHAPES[kind],
            color=SHADES[kind],
            markerfacecolor="black" if kind == "federated" else "white",
            capsize=2,
            markersize=5,
            label=LABELS[kind],
        )
    for place, row in enumerate(rows):
        if all(found is None for found in row.estimates.values()):
            axes.text(
                0.01,
                place,
                "too few to show",
                va="center",
                color="0.4",
                transform=axes.get_yaxis_transform(),
            )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _limit(axes, [e for row in rows for e in row.estimates.values() if e])
    axes.set_xlabel(axis)
    axes.set_title(title, loc="left", fontsize=FONT + 1)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    if len(kinds) > 1:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=len(kinds), frameon=False
        )


def _limit(axes: Any, shown: Sequence[Estimate]) -> None:
    highest = max((found.high for found in shown), default=1.0)
    if min((found.low for found in shown), default=0.0) < 0.0:  # a difference, or a kappa
        axes.axvline(0.0, color="0.6", linewidth=0.8)
    elif highest > 0.5:
        axes.set_xlim(right=1.0)
    else:  # small shares and gaps would all lie at the edge
        axes.set_xlim(left=0.0)
