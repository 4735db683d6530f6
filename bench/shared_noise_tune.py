"""How the settings of `shared_noise.py` were chosen: on development sites alone, both private arms by one grid."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from shared_noise_arms import Split, alone, quick, split_of, without_noise
from tcga import Patients, constants, drawn_hospitals, genes_by_association, is_test
from tcga_study import DELTA, EPSILONS, HOSPITALS, Setting

from solblom_models.accountant import calibrate_noise, pld_epsilon
from solblom_protocol.studies.privacy_event import PrivacyEvent


@dataclass(frozen=True)
class Grid:
    """What private arms were tried with; the same for both."""

    genes: tuple[int, ...]
    rounds: tuple[int, ...]
    norms: tuple[float, ...]
    rates: tuple[float, ...]
    momenta: tuple[float, ...]

    def settings(self) -> list[Setting]:
        """Return every combination."""
        return [
            Setting(genes, rounds, norm, rate, momentum)
            for genes in self.genes
            for rounds in self.rounds
            for norm in self.norms
            for rate in self.rates
            for momentum in self.momenta
        ]


# The settings of `shared_noise.py` come from the first grid. The second was drawn up later, when the evaluation had
# been seen: it shows, on development sites, what the first one's edges may cost, and no setting was taken from it.
CHOSEN_FROM = Grid(
    (10, 20, 50, 100), (5, 10, 20, 40), (0.3, 1.0, 3.0), (0.5, 1.0, 2.0, 4.0, 8.0), (0.0,)
)
WIDE = Grid(
    (20, 50, 100, 200),
    (2, 5, 10, 20),
    (0.03, 0.1, 0.3, 1.0),
    (0.25, 0.5, 1.0, 2.0, 4.0),
    (0.0, 0.9),
)
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


def draws_of(development: Patients, counts: tuple[int, ...]) -> dict[tuple[int, int], Split]:
    """Return splits of the development patients by number of genes and seed."""
    draws = {}
    for count, seed in itertools.product(counts, SEEDS):
        # Genes of a draw come from its training patients alone; otherwise long lists would seem good,
        # because the labels of those tested would have chosen them.
        kept = development.where(np.array([not is_test(i, seed) for i in development.ids]))
        genes = genes_by_association(kept, count)
        hospitals = drawn_hospitals(development, seed)
        draws[count, seed] = split_of(development, hospitals, genes, constants(kept, genes), seed)
    return draws


def tune(development: Patients, *, wide: bool) -> None:
    """Print the best setting of each arm on draws of the development patients."""
    grid = WIDE if wide else CHOSEN_FROM
    draws = draws_of(development, grid.genes)
    for name, fit in (("none", without_noise), ("local-only", alone)):
        fits = {
            (count, l2): np.mean([fit(draws[count, seed], l2).union for seed in SEEDS])
            for count, l2 in itertools.product(grid.genes, L2)
        }
        best = max(fits, key=lambda key: fits[key])
        print(f"{name}: genes {best[0]}, l2 {best[1]:g}: {fits[best]:.4f}", flush=True)
    for epsilon, arm in itertools.product(EPSILONS, ("local", "shared")):
        noises = {rounds: total_noise(arm, epsilon, rounds) for rounds in grid.rounds}
        found = {}
        for setting in grid.settings():
            aurocs = [
                quick(
                    draws[setting.genes, seed],
                    setting,
                    noises[setting.rounds],
                    np.random.default_rng(seed),
                )
                for seed in SEEDS
            ]
            found[setting] = float(np.mean(aurocs))
        top = max(found, key=lambda key: found[key])
        print(f"{arm}, epsilon {epsilon:g}: {top}: {found[top]:.4f}", flush=True)
