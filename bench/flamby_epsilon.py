"""What FLamby's differentially private Fed-Heart-Disease runs really spent.

FLamby's DP runs (flamby/strategies/utils.py, fed_avg.py) ask Opacus for the noise that `epochs =
rounds` needs, then make 100 updates a round, which is more than one epoch; and they draw batches
from the original shuffled loader instead of the Poisson loader that Opacus returns. This bench
recomputes, from the published protocol alone (train sizes 199, 172, 30, 85; batch 4; 15 rounds of
100 updates; delta 1e-4), the noise that Opacus gives and what it costs a patient:

* granted Poisson sampling at Opacus' own rate 1 / ceil(n / batch), for the steps that were really
  made;
* without amplification, as batches came from a shuffled loader: each patient takes part in
  ceil(steps / batches) of the steps.

Run: python bench/flamby_epsilon.py [--json FILE]
"""

import argparse
import json
import math
from pathlib import Path

from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from opacus.accountants.utils import get_noise_multiplier

TRAIN_SIZES = {"Cleveland": 199, "Hungarian": 172, "Switzerland": 30, "VA": 85}
BATCH, ROUNDS, UPDATES, DELTA = 4, 15, 100, 1e-4


def epsilon(noise: float, rate: float, steps: int) -> float:
    """Return the PLD epsilon of Poisson-sampled (rate < 1) or full Gaussian sums."""
    gaussian = dp_event.GaussianDpEvent(noise)
    event = gaussian if rate >= 1 else dp_event.PoissonSampledDpEvent(rate, gaussian)
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(event, steps)
    return float(accountant.get_epsilon(DELTA))


def recompute(stated: float) -> list[dict[str, float | str]]:
    """Return, for each centre, the noise that FLamby's call gives and what it really costs."""
    rows: list[dict[str, float | str]] = []
    for centre, size in TRAIN_SIZES.items():
        batches = math.ceil(size / BATCH)
        rate, steps = 1 / batches, ROUNDS * UPDATES
        noise = get_noise_multiplier(
            target_epsilon=stated,
            target_delta=DELTA,
            sample_rate=rate,
            epochs=ROUNDS,
            accountant="rdp",
        )
        rows.append(
            {
                "centre": centre,
                "noise_multiplier": noise,
                "stated": stated,
                "with_poisson": epsilon(noise, rate, steps),
                "without_amplification": epsilon(noise, 1.0, math.ceil(steps / batches)),
            }
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = [row for stated in (0.1, 1.0, 5.0, 10.0) for row in recompute(stated)]
    print(f"{'stated':>8} {'centre':<12} {'sigma':>8} {'with Poisson':>13} {'without':>9}")
    for row in rows:
        print(
            f"{row['stated']:>8} {row['centre']:<12} {row['noise_multiplier']:>8.3f} "
            f"{row['with_poisson']:>13.2f} {row['without_amplification']:>9.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"delta": DELTA, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
