"""What each tile adds to a model's answer, exactly; and which tiles to look at first.

Both nets of slide-mil end in a linear layer on a weighted mean of tiles, so the logit is a sum over tiles: nothing is
approximated, and no gradient is taken.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.slide_mil.net import GatedAttention, MeanPooling


def tile_evidence(
    net: torch.nn.Module, bag: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each tile's evidence and its attention, both of shape (n,).

    Evidence is n a_i (w · h_i), with attention a_i that sums to 1: its mean over tiles plus `bias_of(net)` is the
    logit. 0 is what adds nothing; it is no threshold, for the bias is not in it.

    Args:
        net: of slide-mil.
        bag: a patient's tiles as the net sees them (standardised), of all slides, shape (n, D).

    Raises:
        TypeError: the net is no sum over tiles.
        ValueError: the bag is empty, or not finite.
    """
    if not isinstance(net, MeanPooling | GatedAttention):
        raise TypeError("evidence is exact for mean pooling and gated attention only")
    _check(bag)
    with torch.no_grad():
        attention = net(bag)[1].double()
        alone = bag.double() @ net.linear.weight.double().squeeze(0)
        evidence = len(bag) * attention * alone
    return evidence.numpy(), attention.numpy()


def bias_of(net: torch.nn.Module) -> float:
    """Return the part of the logit that no tile adds.

    Raises:
        TypeError: the net is no sum over tiles.
    """
    if not isinstance(net, MeanPooling | GatedAttention):
        raise TypeError("evidence is exact for mean pooling and gated attention only")
    return float(net.linear.bias.detach())


def tile_scores(net: torch.nn.Module, tiles: torch.Tensor) -> NDArray[np.float64]:
    """Return each tile's probability of yes by a net of tile-classification, shape (n,).

    Args:
        net: maps tiles (n, D) to logits (n,).
        tiles: as the net sees them, shape (n, D).

    Raises:
        ValueError: there is no tile, or they are not finite.
    """
    _check(tiles)
    with torch.no_grad():
        found: NDArray[np.float64] = torch.sigmoid(net(tiles).double()).numpy()
    return found


def ranked(
    scores: NDArray[np.float64], k: int, *, places: NDArray[np.int64], side: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the k highest tiles, highest first, and of the k lowest, lowest first.

    Among the first 2 k, or tenth of them, tiles that touch one already chosen wait until no others are left: neighbours
    look alike, and a gallery of one spot says little, but one of middling tiles says less. No tile is in both; with few
    tiles both are shorter.

    Args:
        scores: shape (N,).
        k: how many of each.
        places: upper left corners, shape (N, 2).
        side: of a tile, in the unit of `places`.
    """
    order = np.argsort(-scores, kind="stable")
    half = (len(order) + 1) // 2
    top = _apart(order[:half], k, places=places, side=side)
    bottom = _apart(order[half:][::-1], k, places=places, side=side)
    return top, bottom


def _apart(
    order: NDArray[np.int64], k: int, *, places: NDArray[np.int64], side: float
) -> NDArray[np.int64]:
    """Return the first k of an order, those that touch none before them first; in the order given."""
    chosen: list[int] = []  # positions in the order
    centres = places[order].astype(np.float64)
    for position in range(min(max(2 * k, len(order) // 10), len(order))):
        if len(chosen) == k:
            break
        gaps = np.abs(centres[chosen] - centres[position]).max(axis=1) if chosen else None
        # Places are rounded to pixels, so neighbours may lie a pixel farther apart than a side.
        if gaps is None or (gaps > side + 1).all():
            chosen.append(position)
    rest = np.setdiff1d(np.arange(len(order)), chosen)[: max(k - len(chosen), 0)]
    found: NDArray[np.int64] = order[np.array(sorted([*chosen, *rest.tolist()]), dtype=np.int64)]
    return found


def _check(tiles: torch.Tensor) -> None:
    if tiles.ndim != 2 or not len(tiles):
        raise ValueError(f"tiles have shape (n, D) with n above 0, not {tuple(tiles.shape)}")
    if not bool(torch.isfinite(tiles).all()):
        raise ValueError("a tile's features are not finite")
