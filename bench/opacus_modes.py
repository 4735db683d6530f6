"""What one clipped contribution per patient costs a wide perceptron: Opacus' modes, and book-keeping.

The net is dp_step.py's MLP 5000-128 with a batch of 64: forward, backward, clip, noise, SGD. Four ways to the sum:

* plain: no clipping, no noise;
* hooks: Opacus' default, one gradient per patient in memory;
* ghost: Opacus' ghost clipping (Li et al. 2022): norms first, then a second backward pass over reweighted losses;
* book-keeping: the product's own (solblom_client/training/gradients.py), one backward pass.

CPU time, one thread. Each mode is measured in a process of its own beside the plain step, in turn; the ratio is that
of the pairs. Opacus' modes draw noise from a torch generator, the product from ChaCha20, whatever the way to the sum:
so each step is measured without noise too. Extra memory is what the peak of the process grew by in the first step.

GOAL: without noise, book-keeping is no dearer than ghost clipping.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dp_step import make
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from report import Goal, Table, finish, load_average
from torch import nn

from solblom_client.training.gradients import choose_path, prepared
from solblom_client.training.keystream import KeyStream
from solblom_client.training.optimizer import KeyedDPOptimizer

MODES = ("hooks", "ghost", "book-keeping")
NOISE, CLIPPING_NORM, RATE = 1.0, 1.0, 1e-4
Step = Callable[[], None]


def plain_step() -> Step:
    """Return a step without privacy."""
    net, (items, targets) = _net_and_batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(items), targets)
        loss.backward()
        optimizer.step()

    return step


def hooks_step(*, noise: float) -> Step:
    """Return Opacus' default step."""
    net, (items, targets) = _net_and_batch()
    model = GradSampleModule(net)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=RATE),
        noise_multiplier=noise,
        max_grad_norm=CLIPPING_NORM,
        expected_batch_size=len(targets),
    )

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(items), targets)
        loss.backward()
        optimizer.step()

    return step


def ghost_step(*, noise: float) -> Step:
    """Return Opacus' step by ghost clipping."""
    net, (items, targets) = _net_and_batch()
    model = GradSampleModuleFastGradientClipping(
        net, max_grad_norm=CLIPPING_NORM, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(model.parameters(), lr=RATE),
        noise_multiplier=noise,
        max_grad_norm=CLIPPING_NORM,
        expected_batch_size=len(targets),
    )
    criterion = DPLossFastGradientClipping(model, optimizer, nn.BCEWithLogitsLoss())

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(items), targets).backward()
        optimizer.step()

    return step


def book_keeping_step(*, noise: float) -> Step:
    """Return the product's step."""
    net, units, task = make("mlp")
    path = choose_path(task, net)  # type: ignore[arg-type]
    if path.name != "book-keeping":
        raise RuntimeError(f"the product takes the path {path.name}")
    everybody = range(len(units.ids))
    optimizer = KeyedDPOptimizer(
        torch.optim.SGD(net.parameters(), lr=RATE),
        stream=KeyStream(bytes(32)),
        noise_multiplier=noise,
        clipping_norm=CLIPPING_NORM,
        expected_batch_size=float(len(everybody)),
    )

    def step() -> None:
        optimizer.zero_grad()
        with prepared(path, task, net) as put_sum:  # type: ignore[arg-type]
            put_sum(optimizer, units, everybody)
        if noise:
            optimizer.noisy_step()
            return
        for parameter in optimizer.params:
            parameter.grad = parameter.summed_grad / len(everybody)
        optimizer.original_optimizer.step()

    return step


STEPS = {"hooks": hooks_step, "ghost": ghost_step, "book-keeping": book_keeping_step}


def _net_and_batch() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    net, units, _ = make("mlp")
    items, targets, _ = units.batch(range(len(units.ids)))
    return net, (items, targets)


def measure(mode: str, repeats: int) -> dict[str, Any]:
    """Return the median ratio of CPU seconds to the plain step, with quartiles, and the extra peak memory in MB."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    private, plain = STEPS[mode](noise=NOISE), plain_step()
    plain()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    private()
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    found = {"mode": mode, "extra_peak_mb": extra}
    for name, step in (("step", private), ("without_noise", STEPS[mode](noise=0.0))):
        step()
        pairs = [(_cpu_seconds(plain), _cpu_seconds(step)) for _ in range(repeats)]
        low, median, high = statistics.quantiles([b / a for a, b in pairs], n=4)
        found[name] = {
            "plain_ms": 1e3 * statistics.median(a for a, _ in pairs),
            "private_ms": 1e3 * statistics.median(b for _, b in pairs),
            "ratio": median,
            "quartiles": [low, high],
        }
    return found


def _cpu_seconds(step: Step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--mode", choices=MODES, help="measure this one and print a row")
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(measure(options.mode, options.repeats)))
        return
    load_at_start = load_average()
    rows = [_in_a_process_of_its_own(mode, options.repeats) for mode in MODES]
    by_mode = {row["mode"]: row for row in rows}
    ours, ghost = by_mode["book-keeping"]["without_noise"], by_mode["ghost"]["without_noise"]
    finish(
        "opacus_modes",
        measures="CPU time of a wide perceptron's private step over the plain one, by Opacus' modes and book-keeping",
        settings={"repeats": options.repeats, "batch": 64, "net": "MLP 5000-128"},
        seeds=[1],
        tables=[_table(rows)],
        goals=[
            Goal(
                "clipped sum by book-keeping, without noise, MLP 5000-128, over the plain step",
                "no dearer than Opacus' ghost clipping",
                f"{ours['ratio']:.2f}; ghost {ghost['ratio']:.2f}",
                ours["ratio"] <= ghost["ratio"],
            )
        ],
        notes=[
            "One thread. Noise is part of each private step: torch's generator in Opacus' modes, ChaCha20 in ours."
        ],
        results={"rows": rows},
        load_at_start=load_at_start,
        out=options.out,
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    cells = tuple(
        (
            row["mode"],
            f"{row['step']['plain_ms']:.1f}",
            f"{row['step']['private_ms']:.1f}",
            *(_with_quartiles(row[name]) for name in ("step", "without_noise")),
            f"{row['extra_peak_mb']:.0f}",
        )
        for row in rows
    )
    columns = ("clipped sum by", "plain ms", "private ms", "ratio", "without noise", "extra MB")
    return Table("One step, MLP 5000-128, 64 patients", columns, cells)


def _with_quartiles(found: dict[str, Any]) -> str:
    low, high = found["quartiles"]
    return f"{found['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def _in_a_process_of_its_own(mode: str, repeats: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--mode", mode, "--repeats", str(repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
