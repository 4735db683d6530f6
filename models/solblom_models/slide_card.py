"""What a model card says of slides and of tiles, as Markdown: exact figures of a simulation."""

from typing import Any

from solblom_verify.wording import counted

KINDS = {"local": "local only", "federated": "federated", "pooled": "pooled"}
HEADLINES = {
    "slides": "Exact AUROC per patient with 95 % intervals",
    "tiles": "Exact AUROC per tile, intervals over patients (95 %)",
}
"""What is counted, by `measure` of the report."""
DECISIONS = {
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "kappa": "Cohen's kappa",
}


def slide_table(evaluation: dict[str, Any]) -> str:
    """Return the exact figures of a simulation: by hospital, over all, what federation gained, and by scanner."""
    names = " | ".join(KINDS.values())
    rows = "".join(_row(s["site"], s["test_patients"], s["metrics"]) for s in evaluation["sites"])
    total = sum(site["test_patients"] for site in evaluation["sites"])
    gains = "".join(
        f"| {site['site']} | {_interval(site['federated_minus_local'], 'auroc', sign=True)} "
        f"| {_interval(site['federated_minus_local'], 'balanced_accuracy', sign=True)} |\n"
        for site in evaluation["sites"]
    )
    return (
        f"{HEADLINES[evaluation['measure']]}, on each hospital's test patients; possible because one machine held all "
        f"data. {evaluation['note']}.\n\n"
        f"| hospital | test patients | {names} |\n|---|---|{'---|' * len(KINDS)}\n"
        f"{rows}{_row('all', total, evaluation['all'])}\n"
        f"Yes or no, all test patients. Thresholds: {evaluation['thresholds']}.\n\n"
        f"| all, with 95 % intervals | {names} |\n|---|{'---|' * len(KINDS)}\n{_decisions(evaluation['all'])}\n"
        f"| federated minus local, paired | AUROC | balanced accuracy |\n|---|---|---|\n{gains}"
        f"{_scanners(evaluation['subgroups'].get('scanner', {}))}"
    )


def area(metrics: dict[str, Any]) -> str:
    """Return an AUROC with its interval, or why none is shown."""
    if metrics["auroc"] is None:
        return f"not shown: {metrics['reason']}"
    low, high = metrics["auroc_interval"]
    return f"{metrics['auroc']:.3f} [{low:.3f}, {high:.3f}]"


def _row(name: str, patients: int, metrics: dict[str, Any]) -> str:
    return f"| {name} | {patients} | {' | '.join(area(metrics[kind]) for kind in KINDS)} |\n"


def _decisions(metrics: dict[str, Any]) -> str:
    return "".join(
        f"| {words} | {' | '.join(_interval(metrics[kind], name) for kind in KINDS)} |\n"
        for name, words in DECISIONS.items()
    )


def _interval(metrics: dict[str, Any], name: str, *, sign: bool = False) -> str:
    if metrics[name] is None:
        return "not shown"
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if sign else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(*metrics[name])


def _scanners(groups: dict[str, Any]) -> str:
    if not groups:
        return ""
    rows = "".join(
        f"| {name} | {counted(group['patients'], 'patient')} | "
        f"{area(group) if 'auroc' in group else 'too few'} |\n"
        for name, group in groups.items()
    )
    return f"\n| federated, by scanner | test patients | AUROC |\n|---|---|---|\n{rows}"
