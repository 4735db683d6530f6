"""Gives results of benches that print rows (`--json FILE`) the shape of all others."""

from pathlib import Path
from typing import Any

from report import Goal, Table, finish

MIL_MEGABYTES = 40.0  # goal of dp_step.py for bags


def finish_dp_step(rows: list[dict[str, Any]], load_at_start: float, out: Path | None) -> None:
    """Write the result of dp_step.py."""
    names = {"mlp": "MLP 5000-128", "cnn": "CNN, GroupNorm", "mil": "gated attention over bags"}
    goals = [
        Goal(
            f"private over plain step, {names[row['case']]}, CPU",
            f"at most {row['goal']:g}",
            f"{row['ratio']:.2f} [quartiles {row['quartiles'][0]:.2f}, {row['quartiles'][1]:.2f}]",
            row["ratio"] <= row["goal"],
        )
        for row in rows
    ]
    memory = next(row["extra_peak_mb"] for row in rows if row["case"] == "mil")
    goals.append(
        Goal(
            "extra memory of a private step over bags",
            f"at most {MIL_MEGABYTES:g} MB",
            f"{memory:.0f} MB",
            memory <= MIL_MEGABYTES,
        )
    )
    columns = ("net", "gradients by", "plain ms", "private ms", "ratio", "extra MB")
    cells = tuple(
        (
            names[row["case"]],
            row["path"],
            f"{row['plain_ms']:.1f}",
            f"{row['private_ms']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['extra_peak_mb']:.0f}",
        )
        for row in rows
    )
    finish(
        "dp_step",
        measures="CPU time of a patient-level private training step beside the plain one",
        settings={"repeats": rows[0]["repeats"]},
        seeds=[1],
        tables=[Table("One step: forward, backward, clip, noise, SGD", columns, cells)],
        goals=goals,
        notes=["One thread. Bags are compared with the plain step on padded bags."],
        results={"rows": rows},
        load_at_start=load_at_start,
        out=out,
    )


def finish_flamby_epsilon(value: dict[str, Any], load_at_start: float, out: Path | None) -> None:
    """Write the result of flamby_epsilon.py."""
    columns = ("centre", "stated", "noise multiplier", "granted Poisson", "without amplification")
    cells = tuple(
        (
            row["centre"],
            f"{row['stated']:g}",
            f"{row['noise_multiplier']:.3f}",
            f"{row['with_poisson']:.2f}",
            f"{row['without_amplification']:.2f}",
        )
        for row in value["rows"]
    )
    finish(
        "flamby_epsilon",
        measures="What FLamby's published private Fed-Heart-Disease runs spent, recomputed from their protocol",
        settings={"delta": value["delta"]},
        seeds=[],
        tables=[Table(f"Epsilon at delta {value['delta']:g}: stated, and real", columns, cells)],
        goals=[],
        notes=["Computed from the published protocol; nothing was trained."],
        results=value,
        load_at_start=load_at_start,
        out=out,
    )
