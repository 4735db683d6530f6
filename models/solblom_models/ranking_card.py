"""What a model card says of ranked diseases, as Markdown."""

from typing import Any

from solblom_models.ranking import TOPS
from solblom_verify.wording import counted

KINDS = {
    "prior": "public knowledge alone",
    "local": "local only",
    "federated": "federated",
    "pooled": "pooled",
}


def ranking_table(evaluation: dict[str, Any]) -> str:
    """Return the exact figures of a simulation: recall by hospital and over all."""
    rows = "".join(
        _row(site["site"], site["test_patients"], site["metrics"]) for site in evaluation["sites"]
    )
    total = sum(site["test_patients"] for site in evaluation["sites"])
    return (
        "Share of test patients whose disease stood first · among the first ten, possible because one machine held all "
        f"data. {evaluation['note']}.\n\n"
        f"| hospital | test patients | {' | '.join(KINDS.values())} |\n|---|---|{'---|' * len(KINDS)}\n"
        f"{rows}{_row('all', total, evaluation['all'])}\n"
        f"{_intervals(evaluation['all'])}\n{_groups(evaluation)}"
    )


def ranking_release(metrics: dict[str, Any]) -> str | None:
    """Return the rows of a released rank histogram; None where the release is of something else."""
    if f"top_{TOPS[0]}" not in metrics:
        return None
    return "".join(
        f"| disease among the first {top} | {metrics[f'top_{top}']:.3f} "
        f"[{metrics[f'top_{top}_interval'][0]:.3f}, {metrics[f'top_{top}_interval'][1]:.3f}] |\n"
        for top in TOPS
    )


def _row(name: str, patients: int, metrics: dict[str, Any]) -> str:
    cells = " | ".join(_cell(metrics[kind]) for kind in KINDS)
    return f"| {name} | {patients} | {cells} |\n"


def _cell(metrics: dict[str, Any]) -> str:
    if "top_1" not in metrics:
        return "no patients"
    return f"{metrics['top_1'][0]:.3f} · {metrics['top_10'][0]:.3f}"


def _intervals(metrics: dict[str, Any]) -> str:
    names = {f"top_{top}": f"among the first {top}" for top in TOPS} | {
        "mrr": "mean reciprocal rank",
        "macro_top_1": "first, mean over diseases",
        "rare_top_1": "first, rare diseases",
    }
    rows = "".join(
        f"| {words} | {' | '.join(_interval(metrics[kind], name) for kind in KINDS)} |\n"
        for name, words in names.items()
        if name in metrics["federated"]
    )
    return f"| all, with 95 % intervals | {' | '.join(KINDS.values())} |\n|---|{'---|' * len(KINDS)}\n{rows}"


def _interval(metrics: dict[str, Any], name: str) -> str:
    if name not in metrics:
        return ""
    value, low, high = metrics[name]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _groups(evaluation: dict[str, Any]) -> str:
    unseen = evaluation["unseen_diseases"]
    lines = []
    if unseen:
        lines.append(
            f"{counted(unseen, 'tested disease')} had no training patient in any hospital."
        )
    rows = "".join(
        f"| {value} | {group['patients']} | {_cell(group) if 'top_1' in group else 'too few'} |\n"
        for groups in evaluation["subgroups"].values()
        for value, group in groups.items()
    )
    lines.append(
        f"| federated, by group | test patients | first · first ten |\n|---|---|---|\n{rows}"
    )
    return "\n".join(lines)
