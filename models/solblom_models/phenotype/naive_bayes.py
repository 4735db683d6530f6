"""Scores from sums of patients by disease: multinomial naive Bayes, or a small correction where the sums are noisy.

    share of term t in disease d = (sum of patients' entries for t + prior mass of t) / (the same over all terms)
    score of disease d           = sum over the patient's terms of entry times log share

(McCallum & Nigam 1998; a patient's terms are a document's words. The prior is Dirichlet: Gelman et al. 2013, section
3.4.) Observed and excluded terms are two such models side by side. Nothing public says what is ruled out in which
disease, so the prior of excluded terms is how often all study diseases show them: people rule out what they think of.

A logarithm of a noisy sum is mostly noise: most entries of a real sum are smaller than the noise of epsilon 3. So with
noise the public profiles stay as they are, and a linear correction is added, in which noise averages out over the
patient's many terms:

    correction of disease d = STRENGTH * (sum of d - patients of d * mean patient) / (patients of d + SHRINKAGE * noise)

The mean patient is a sum over everybody, so its noise hardly counts. Strength and shrinkage were chosen on published
cases: docs/concepts/rare-disease.md.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from solblom_models.phenotype.knowledge import Knowledge

BACKGROUND = 0.2
"""Share of the average disease in every profile: a term that nobody noted of a disease is not impossible."""
FLOOR = 1e-4
"""Share of patients of every disease who show a term of which nothing is known."""
PRIOR_ENTRIES = (4.0, 2.0)
"""What one patient's observed and excluded entries add up to, about, where no patient says so."""
STRENGTH = 26.0
SHRINKAGE = 60.0  # patients for each unit of noise on the sums, in the norm of one patient's vector

Floats = NDArray[np.float64]


@lru_cache(maxsize=4)  # every block of patients that is scored asks for them
def profile_shares(knowledge: Knowledge) -> Floats:
    """Return the public profiles as shares of a patient's observed entries, each row adding up to 1, shape (K, T).

    A disease of which nothing is known has the average profile.
    """
    known = knowledge.profiles[knowledge.annotated]
    average = known.mean(axis=0) if len(known) else np.zeros(knowledge.profiles.shape[1])
    whole = (knowledge.profiles + BACKGROUND * average + FLOOR) * knowledge.space.weights
    shares: Floats = (whole + 1e-12) / (whole + 1e-12).sum(axis=1, keepdims=True)
    return shares


def prior_log_shares(knowledge: Knowledge) -> Floats:
    """Return weights of a patient's vector from public profiles alone, shape (K, 2T); 0 for excluded terms."""
    observed = np.log(profile_shares(knowledge))
    return np.concatenate([observed, np.zeros_like(observed)], axis=1)


def read_out(
    knowledge: Knowledge,
    sums: Floats,
    patients: Floats,
    *,
    prior_weights: tuple[float, float],
    deviation: float,
) -> Floats:
    """Return weights of a patient's vector, shape (K, 2T).

    Args:
        knowledge: the study's.
        sums: of patients' vectors by disease, shape (K, 2T).
        patients: how many they are, shape (K,).
        prior_weights: patients for whom the priors of observed and of excluded terms count.
        deviation: standard deviation of the noise on every sum; 0 for exact sums.
    """
    if deviation > 0:
        return prior_log_shares(knowledge) + correction(sums, patients, deviation=deviation)
    terms = len(knowledge.space.terms)
    shares = profile_shares(knowledge)
    priors = (shares, np.broadcast_to(shares.mean(axis=0), shares.shape))
    total, found = float(patients.sum()), []
    for part in range(2):
        block = sums[:, part * terms : (part + 1) * terms]
        # What one patient's entries add up to: from the sums themselves, so it costs nothing more.
        each = block.sum() / total if total >= 1 else PRIOR_ENTRIES[part]
        mass = np.maximum(block, 0.0) + prior_weights[part] * max(each, 1e-6) * priors[part]
        found.append(np.log(mass / mass.sum(axis=1, keepdims=True)))
    return np.concatenate(found, axis=1)


def correction(sums: Floats, patients: Floats, *, deviation: float) -> Floats:
    """Return what noisy sums add to the weights that public profiles give, shape (K, 2T)."""
    seen = np.maximum(patients, 1.0)
    mean = sums.sum(axis=0) / max(float(patients.sum()), 1.0)
    shrunk = seen + SHRINKAGE * deviation
    whole: Floats = STRENGTH * (sums - seen[:, None] * mean) / shrunk[:, None]
    return whole
