"""What a patient-level private step costs over the plain torch step, in CPU time, one thread, one process.

Step = forward, backward, clip, noise from ChaCha20, SGD. The ratio is taken pair by pair (plain,
private, plain, ...), the median is quoted. Goals: MLP 5000-128 <= 3.5, CNN <= 2, gated-attention
MIL <= 1.0 of the padded plain step with extra memory <= 40 MB at 16 bags of up to 1,000 x 512.

Run: OMP_NUM_THREADS=1 python bench/dp_step.py [--repeats 15] [--json FILE]
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from solblom_client.training.gradients import choose_path, prepared
from solblom_client.training.keystream import KeyStream
from solblom_client.training.optimizer import KeyedDPOptimizer
from solblom_models.tabular.net import MultilayerPerceptron

GOALS = {"mlp": 3.5, "cnn": 2.0, "mil": 1.0}


@dataclass(frozen=True)
class Inputs:
    """Made-up patients: one tensor each, and a label."""

    items: list[torch.Tensor]
    targets: torch.Tensor

    @property
    def ids(self) -> tuple[str, ...]:
        """Return a name for each."""
        return tuple(str(i) for i in range(len(self.items)))

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the labels."""
        return self.targets.numpy().astype(np.int64)

    def batch(self, indices: Sequence[int]) -> Any:
        """Return stacked items, labels and no mask."""
        chosen = list(indices)
        return torch.stack([self.items[i] for i in chosen]), self.targets[chosen], None

    def padded(self) -> Any:
        """Return all items padded to the longest, with a mask."""
        longest = max(len(item) for item in self.items)
        padded = torch.zeros(len(self.items), longest, self.items[0].shape[-1])
        mask = torch.zeros(len(self.items), longest, dtype=torch.bool)
        for i, item in enumerate(self.items):
            padded[i, : len(item)] = item
            mask[i, : len(item)] = True
        return padded, self.targets, mask

    def select(self, indices: Sequence[int]) -> "Inputs":
        """Return these only."""
        return Inputs([self.items[i] for i in indices], self.targets[list(indices)])

    def row_bytes(self, index: int) -> bytes:
        """Return the item's bytes."""
        return bytes(self.items[index].numpy().tobytes())


class BenchTask:
    """Binary cross-entropy, one loss a patient."""

    name, connector = "bench", "none"

    def __init__(self, *, ragged: bool) -> None:
        self.ragged = ragged

    def losses(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Return one loss per patient."""
        items, targets, mask = batch
        logits = model(items) if mask is None else model(items, mask)
        return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


class SmallCnn(nn.Module):
    """Three convolutions with GroupNorm on 64 x 64 tiles, 242 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.GroupNorm(8, 32), nn.ReLU(),
            nn.Conv2d(32, 96, 3, stride=2, padding=1), nn.GroupNorm(8, 96), nn.ReLU(),
            nn.Conv2d(96, 248, 3, stride=2, padding=1), nn.GroupNorm(8, 248), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(248, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tiles (B, 3, 64, 64) to logits (B,)."""
        logits: torch.Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits.squeeze(-1)


class GatedAttention(nn.Module):
    """Gated attention over a bag (Ilse et al. 2018, arXiv:1802.04712, eq. 9), 198 thousand parameters."""

    def __init__(self, features: int = 512, hidden: int = 128) -> None:
        super().__init__()
        self.embed = nn.Linear(features, 256)
        self.v, self.u = nn.Linear(256, hidden), nn.Linear(256, hidden)
        self.attention, self.head = nn.Linear(hidden, 1), nn.Linear(256, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map bags (B, N, D) with an optional mask (B, N) to logits (B,)."""
        h = torch.relu(self.embed(x))
        scores = self.attention(torch.tanh(self.v(h)) * torch.sigmoid(self.u(h))).squeeze(-1)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        pooled = (torch.softmax(scores, dim=1).unsqueeze(-1) * h).sum(dim=1)
        logits: torch.Tensor = self.head(pooled)
        return logits.squeeze(-1)


def make(kind: str) -> tuple[nn.Module, Inputs, BenchTask]:
    """Return net, patients and task of a case."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    if kind == "mlp":
        items = list(torch.randn(64, 5000, generator=generator))
        return MultilayerPerceptron(5000, [128], seed=1), _inputs(items), BenchTask(ragged=False)
    if kind == "cnn":
        items = list(torch.randn(16, 3, 64, 64, generator=generator))
        return SmallCnn(), _inputs(items), BenchTask(ragged=False)
    sizes = torch.randint(200, 1001, (16,), generator=generator).tolist()
    items = [torch.randn(size, 512, generator=generator) for size in sizes]
    return GatedAttention(), _inputs(items), BenchTask(ragged=True)


def _inputs(items: list[torch.Tensor]) -> Inputs:
    return Inputs(items, torch.arange(len(items)).remainder(2).float())


def measure(kind: str, repeats: int) -> dict[str, Any]:
    """Return the median ratio of CPU seconds, with quartiles, and the extra peak memory in MB."""
    model, units, task = make(kind)
    everybody = list(range(len(units.items)))
    path = choose_path(task, model)  # type: ignore[arg-type]
    bare = make(kind)[0]  # a net of its own: hooks would slow the plain step down
    plain = torch.optim.SGD(bare.parameters(), lr=1e-4)
    whole = units.padded() if task.ragged else None
    private = KeyedDPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1e-4),
        stream=KeyStream(bytes(32)),
        noise_multiplier=1.0,
        clipping_norm=1.0,
        expected_batch_size=float(len(everybody)),
    )

    def plain_step() -> None:
        plain.zero_grad()
        batch = units.batch(everybody) if whole is None else whole
        task.losses(bare, batch).mean().backward()
        plain.step()

    with prepared(path, task, model) as put_sum:  # type: ignore[arg-type]

        def private_step() -> None:
            private.zero_grad()
            put_sum(private, units, everybody)
            private.noisy_step()

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        private_step()
        extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        plain_step()
        pairs = [(_cpu(plain_step), _cpu(private_step)) for _ in range(repeats)]
    ratios = [b / a for a, b in pairs]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "case": kind,
        "path": path.name,
        "plain_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "private_ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio": median,
        "quartiles": [low, high],
        "goal": GOALS[kind],
        "extra_peak_mb": extra,
        "repeats": repeats,
    }


def _cpu(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # MIL first: its memory is measured against a process that has done nothing larger yet.
    rows = [measure(kind, options.repeats) for kind in ("mil", "mlp", "cnn")]
    for row in rows:
        low, high = row["quartiles"]
        print(
            f"{row['case']:<4} {row['path']:<12} plain {row['plain_ms']:7.1f} ms  private "
            f"{row['private_ms']:7.1f} ms  ratio {row['ratio']:.2f} [{low:.2f}, {high:.2f}]  "
            f"goal {row['goal']}  extra {row['extra_peak_mb']:.0f} MB"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
