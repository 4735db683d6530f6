"""How the demo shows slides and tiles on a terminal."""

from typing import Any

from rich.table import Table

from solblom_models.slide_card import DECISIONS, HEADLINES, KINDS, area
from solblom_protocol.console import out
from solblom_verify.wording import counted

SHOWN = ("sensitivity_at_95_specificity", "balanced_accuracy")
WIDEST = 20  # of an area with its interval; all fits into 110 columns


def print_slides(title: str, data: dict[str, Any], evaluation: dict[str, Any]) -> None:
    """Print AUROC by hospital and over all, then yes-or-no figures and scanners, a line each.

    Args:
        title: of the table.
        data: `solblom.demo/1`.
        evaluation: the run's exact report, whose `measure` is slides or tiles.
    """
    table = Table(
        title=title,
        title_style="bold yellow",
        caption=f"{HEADLINES[evaluation['measure']]}, on the same test patients.\n"
        "Local-only and pooled are trained without noise.",
    )
    table.add_column("hospital")
    table.add_column("patients\ntrain + test", justify="right")
    for words in KINDS.values():
        table.add_column(words, justify="center", max_width=WIDEST)
    table.add_column("epsilon\nspent", justify="right")
    for site in data["sites"]:
        patients = f"{site['patients']} + {site['test_patients']}"
        table.add_row(site["site"], patients, *_cells(site["metrics"]), site["epsilon"])
    table.add_section()
    total = [sum(site[key] for site in data["sites"]) for key in ("patients", "test_patients")]
    table.add_row("all *", f"{total[0]} + {total[1]}", *_cells(data["metrics"]), "")
    console = out()
    console.print(table)
    for line in lines(evaluation):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(
        "* All together: here local-only mixes models that each know how common the disease is in their hospital;\n"
        f"  compare hospital by hospital. Delta {data['sites'][0]['delta']}; "
        "what epsilon does not cover stands in privacy/statement.json.",
        style="dim",
        markup=False,
    )


def lines(evaluation: dict[str, Any]) -> list[str]:
    """Return the lines below the table: all hospitals together, then federated by scanner."""
    widest = max(len(DECISIONS[name]) for name in SHOWN)
    found = [f"All hospitals' test patients together: {', '.join(KINDS.values())}"]
    for name in SHOWN:
        values = [_value(evaluation["all"][kind][name]) for kind in KINDS]
        found.append(f"  {DECISIONS[name]:<{widest}}  {'   '.join(values)}")
    groups = evaluation["subgroups"].get("scanner", {})
    if groups:
        found.append("Federated, AUROC by scanner")
        widest = max(len(name) for name in groups)
        found += [f"  {name:<{widest}}  {_scanner(group)}" for name, group in groups.items()]
    return found


def _scanner(group: dict[str, Any]) -> str:
    patients = counted(group["patients"], "test patient")
    return f"{area(group)}, {patients}" if "auroc" in group else f"{patients}, too few to show"


def _cells(metrics: dict[str, Any]) -> list[str]:
    return [area(metrics[kind]) for kind in KINDS]


def _value(values: list[float] | None) -> str:
    return "not shown" if values is None else "{:.2f} [{:.2f}, {:.2f}]".format(*values)
