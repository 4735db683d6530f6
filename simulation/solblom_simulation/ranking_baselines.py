"""What ranks diseases without federation or without privacy: the study's own net, fitted without noise.

Possible in a simulation only, where one machine holds all data.
"""

from collections.abc import Sequence

import numpy as np
import torch

from solblom_models.phenotype.cases import CaseUnits
from solblom_models.phenotype.net import Prototypes, Ranker
from solblom_models.phenotype.settings import COUNT_WEIGHT

STEPS, RATE, DECAY = 150, 0.02, 1e-2  # AdamW over all patients at once, for nets that are trained
HOW = (
    "the study's own net without noise: prototypes as exact sums, trained nets by "
    f"{STEPS} full-batch steps of AdamW; prior: public annotations alone"
)


def fitted(net: Ranker, units: CaseUnits) -> Ranker:
    """Fit a net to these patients without noise, in place, and return it."""
    features = torch.from_numpy(units.dense())
    labels = torch.from_numpy(units.labels)
    if isinstance(net, Prototypes):
        net.deviation = 0.0  # exact sums, so read out as exact
        _add_up(net, features, labels)
        return net
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS if len(labels) else 0):
        optimizer.zero_grad()
        loss = net.losses(features, labels).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net


def _add_up(net: Prototypes, features: torch.Tensor, labels: torch.Tensor) -> None:
    beside = torch.full((len(features), 1), COUNT_WEIGHT)
    with torch.no_grad():
        net.sums.weight.zero_()
        net.sums.weight.index_add_(0, labels, torch.cat([features, beside], dim=1))


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
