"""How the demo shows ranked diseases on a terminal."""

from typing import Any

from rich.table import Table

from solblom_protocol.console import out

COLUMNS = (
    ("prior", "public\nknowledge"),
    ("local", "local only"),
    ("federated", "federated"),
    ("pooled", "pooled"),
)


def print_rankings(title: str, data: dict[str, Any], *, baselines: str) -> None:
    """Print how often the right disease stood first, or among the first ten, by hospital and over all."""
    table = Table(
        title=title,
        title_style="bold yellow",
        caption="Share of the same test patients whose disease stood first · among the first ten.",
    )
    table.add_column("hospital")
    table.add_column("patients\ntrain + test", justify="right")
    for _, words in COLUMNS:
        table.add_column(words, justify="center")
    table.add_column("epsilon\nspent", justify="right")
    for site in data["sites"]:
        cells = [_cell(site["metrics"][kind]) for kind, _ in COLUMNS]
        patients = f"{site['patients']} + {site['test_patients']}"
        table.add_row(site["site"], patients, *cells, site["epsilon"])
    table.add_section()
    total = [sum(site[key] for site in data["sites"]) for key in ("patients", "test_patients")]
    cells = [_cell(data["metrics"][kind]) for kind, _ in COLUMNS]
    table.add_row("all together", f"{total[0]} + {total[1]}", *cells, "")
    console = out()
    console.print(table)
    federated = data["metrics"]["federated"]["top_1"]
    console.print(
        f"Federated, all together, first: {federated[0]:.2f} [95 % interval {federated[1]:.2f}, {federated[2]:.2f}]. "
        f"Baselines: {baselines}.\nPatients are drawn near the published frequencies that public knowledge is made of, "
        "so it does well here. "
        f"Delta {data['sites'][0]['delta']}; what epsilon does not cover stands in privacy/statement.json.",
        style="dim",
        markup=False,
    )


def _cell(metrics: dict[str, Any]) -> str:
    if "top_1" not in metrics:
        return "no patients"
    return f"{metrics['top_1'][0]:.2f} · {metrics['top_10'][0]:.2f}"
