"""What ranks diseases without federation or without privacy: the study's own net, fitted without noise.

Possible in a simulation only, where one machine holds all data.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_client.cohorts.families import Families
from solblom_models.phenotype.cases import CaseUnits
from solblom_models.phenotype.net import Prototypes, Ranker, Trained
from solblom_models.phenotype.settings import COUNT_WEIGHT

LINEAR, PERCEPTRON = (150, 0.05, 0.1), (30, 0.02, 1.0)
"""Steps of AdamW over all patients at once, their size, and weight decay; chosen on published cases."""
HOW = (
    "the study's own net without noise: prototypes as exact sums, linear rankers by "
    f"{LINEAR[0]} and perceptrons by {PERCEPTRON[0]} full-batch steps of AdamW; prior: public annotations alone"
)


def shares_of(parts: Sequence[CaseUnits]) -> NDArray[np.float32]:
    """Return each patient's share in the family's contribution, hospital by hospital, as their vaults give it."""
    return np.concatenate([Families.of(part).shares for part in parts])


def fitted(net: Ranker, units: CaseUnits, shares: NDArray[np.float32] | None = None) -> Ranker:
    """Fit a net to these patients without noise, in place, and return it; sums take each by their share, if given."""
    features = torch.from_numpy(units.dense())
    labels = torch.from_numpy(units.labels)
    if isinstance(net, Prototypes):
        net.deviation = 0.0  # exact sums, so read out as exact
        _add_up(net, features, labels, shares)
        return net
    is_linear = isinstance(net, Trained) and net.hidden is None
    steps, rate, decay = LINEAR if is_linear else PERCEPTRON
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay)
    for _ in range(steps if len(labels) else 0):
        optimizer.zero_grad()
        loss = net.losses(features, labels).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net


def _add_up(
    net: Prototypes,
    features: torch.Tensor,
    labels: torch.Tensor,
    shares: NDArray[np.float32] | None,
) -> None:
    beside = torch.full((len(features), 1), COUNT_WEIGHT)
    whole = torch.cat([features, beside], dim=1)
    if shares is not None:
        whole = whole * torch.from_numpy(shares)[:, None]
    with torch.no_grad():
        net.sums.weight.zero_()
        net.sums.weight.index_add_(0, labels, whole)


def joined(parts: Sequence[CaseUnits]) -> CaseUnits:
    """Return the patients of several hospitals as those of one."""
    first = parts[0]
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return CaseUnits(
        ids=tuple(name for part in parts for name in part.ids),
        labels=np.concatenate([part.labels for part in parts]),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        indices=np.concatenate([part.indices for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        size=first.size,
        sexes=tuple(sex for part in parts for sex in part.sexes),
        ages=tuple(age for part in parts for age in part.ages),
        groups={
            kind: tuple(group for part in parts for group in part.groups[kind])
            for kind in first.groups
        },
        outside=np.concatenate([part.outside for part in parts]),
    )
