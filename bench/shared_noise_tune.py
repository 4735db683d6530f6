"""How the settings of `shared_noise.py` were chosen: on development sites alone, both private arms by one grid."""

import itertools
import math

import numpy as np
from shared_noise_arms import alone, quick, split_of, without_noise
from tcga import Patients, constants, drawn_hospitals, genes_by_association, is_test
from tcga_study import DELTA, EPSILONS, HOSPITALS, Setting

from solblom_models.accountant import calibrate_noise, pld_epsilon
from solblom_protocol.privacy_event import PrivacyEvent

GENES, ROUNDS = (10, 20, 50, 100), (5, 10, 20, 40)
NORMS, RATES = (0.3, 1.0, 3.0), (0.5, 1.0, 2.0, 4.0, 8.0)
L2 = (0.001, 0.01, 0.1, 1.0, 10.0)
SEEDS = range(2000, 2020)


def total_noise(arm: str, epsilon: float, rounds: int) -> float:
    """Return the standard deviation of the noise on the sum of all hospitals, over the clipping norm."""
    if arm == "local":
        return float(calibrate_noise(epsilon, DELTA, steps=rounds)) * math.sqrt(HOSPITALS)
    low, high = 0.05, 4000.0
    while high - low > 1e-3 * low:
        middle = math.sqrt(low * high)
        event = PrivacyEvent(
            "shared-gaussian", "1", f"{middle:.6f}", rounds, "0", "1", f"{middle:.6f}", "0"
        )
        low, high = (low, middle) if pld_epsilon([event], DELTA) <= epsilon else (middle, high)
    return high * math.sqrt(HOSPITALS / (HOSPITALS - 1))


def tune(development: Patients) -> None:
    """Print the best setting of each arm on draws of the development patients."""
    draws = {}
    for count, seed in itertools.product(GENES, SEEDS):
        # Genes of a draw come from its training patients alone; otherwise long lists would seem good,
        # because the labels of those tested would have chosen them.
        kept = development.where(np.array([not is_test(i, seed) for i in development.ids]))
        genes = genes_by_association(kept, count)
        hospitals = drawn_hospitals(development, seed)
        draws[count, seed] = split_of(development, hospitals, genes, constants(kept, genes), seed)
    for name, fit in (("none", without_noise), ("local-only", alone)):
        found = {
            (count, l2): np.mean([fit(draws[count, seed], l2) for seed in SEEDS])
            for count, l2 in itertools.product(GENES, L2)
        }
        best = max(found, key=lambda key: found[key])
        print(f"{name}: genes {best[0]}, l2 {best[1]:g}: {found[best]:.4f}", flush=True)
    for arm, epsilon in itertools.product(("local", "shared"), EPSILONS):
        noises = {rounds: total_noise(arm, epsilon, rounds) for rounds in ROUNDS}
        found = {}
        for values in itertools.product(GENES, ROUNDS, NORMS, RATES):
            setting = Setting(*values)
            found[setting] = np.mean(
                [
                    quick(
                        draws[setting.genes, seed], setting, noises[setting.rounds],
                        np.random.default_rng(seed),
                    )
                    for seed in SEEDS
                ]
            )  # fmt: skip
        top = max(found, key=lambda key: found[key])
        print(f"{arm}, epsilon {epsilon:g}: {top}: {found[top]:.4f}", flush=True)
