"""What a model card says of slides and tiles: of what the figures are, and nothing that a group is too small for."""

from typing import Any

import pytest

from solblom_models.slide_card import slide_table

SHOWN = {
    "auroc": 0.91,
    "auroc_interval": [0.85, 0.95],
    "reason": None,
    "sensitivity_at_95_specificity": [0.6, 0.5, 0.7],
    "balanced_accuracy": [0.82, 0.75, 0.88],
    "f1": [0.7, 0.6, 0.8],
    "kappa": None,
}
HIDDEN = dict.fromkeys(SHOWN) | {"reason": "3 patients with a positive tile"}
KINDS = ("local", "federated", "pooled")


def report(measure: str, **changes: Any) -> dict[str, Any]:
    gain = {"auroc": [0.05, -0.01, 0.1], "balanced_accuracy": None, "reason": None}
    return {
        "measure": measure,
        "note": "A note",
        "thresholds": "each hospital's own",
        "sites": [
            {
                "site": site,
                "test_patients": 20,
                "metrics": dict.fromkeys(KINDS, figures),
                "federated_minus_local": gain,
            }
            for site, figures in (("north", SHOWN), ("south", HIDDEN))
        ],
        "all": dict.fromkeys(KINDS, SHOWN),
        "subgroups": {},
    } | changes


@pytest.mark.parametrize(
    ("measure", "words"),
    [("slides", "per patient"), ("tiles", "per tile, intervals over patients")],
)
def test_the_card_says_of_what_the_figures_are(measure: str, words: str) -> None:
    card = slide_table(report(measure))
    assert words in card.splitlines()[0]
    assert "possible because one machine held all data" in card
    assert "| all | 40 | 0.910 [0.850, 0.950]" in card


def test_a_hidden_figure_stays_hidden_and_says_why() -> None:
    card = slide_table(report("tiles"))
    assert "| south | 20 | not shown: 3 patients with a positive tile |" in card
    assert "| Cohen's kappa | not shown | not shown | not shown |" in card
    assert "| north | +0.050 [-0.010, +0.100] | not shown |" in card


def test_a_small_group_of_a_scanner_is_counted_only() -> None:
    groups = {"AT2": {"patients": 31, **SHOWN}, "P1000": {"patients": 1}}
    card = slide_table(report("slides", subgroups={"scanner": groups}))
    assert "| AT2 | 31 patients | 0.910 [0.850, 0.950] |" in card
    assert "| P1000 | 1 patient | too few |" in card
    assert "by scanner" not in slide_table(report("slides"))
