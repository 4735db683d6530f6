"""A small convolutional trunk, trained on crops of one public slide alone, for idc_cnn.py.

Crops of CMU-1-Small-Region (CC0, OpenSlide) at six resolutions, turned, mirrored and stained anew at every step. The
trunk learns to tell the public texture features of the crop as it was (`solblom-texture-1`), so that what it sees
does not depend on the stain; or, as `contrastive`, to know a crop again among others (SimCLR, Chen et al. 2020). No
patient of a study has a part in it: it costs no epsilon.
"""

from typing import Literal

import encoder_constants
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from solblom_models.tile_classification.net import TileCnn
from solblom_models.tile_encoder.encoder import encode
from solblom_models.tile_encoder.stain import rgb_of, stains_of

SHRINK, EACH, SIDE = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0), 1_000, 50
CHANNELS, SEED, BATCH = (16, 32, 64), 11, 128
VARY, SHIFT, TEMPERATURE = (0.25, 0.25, 0.08), 0.02, 0.2
Lesson = Literal["texture", "contrastive", "nothing"]


def public_crops(slide: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return crops with tissue at six resolutions, shape (N, 50, 50, 3)."""
    encoder_constants.SHRINK, encoder_constants.EACH = SHRINK, EACH
    return encoder_constants.crops(slide)


def inputs(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Return what the net sees of tiles (N, P, P, 3), shape (N, 3 P P)."""
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0
    return ((scaled - 0.5) / 0.25).flatten(1)


def stained_anew(pixels: NDArray[np.uint8], generator: torch.Generator) -> torch.Tensor:
    """Return tiles of other laboratories, turned and mirrored at random, as the net sees them."""
    tiles = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    if float(torch.rand(1, generator=generator)) < 0.5:
        tiles = tiles.flip(3)
    tiles = torch.rot90(tiles, int(torch.randint(4, (1,), generator=generator)), (2, 3))
    shape = (len(tiles), 3, 1, 1)
    factors = torch.exp(
        torch.randn(shape, generator=generator) * torch.tensor(VARY).view(1, 3, 1, 1)
    )
    shift = SHIFT * torch.randn(shape, generator=generator)
    return ((rgb_of(stains_of(tiles) * factors + shift) / 255.0 - 0.5) / 0.25).flatten(1)


def public_trunk(crops: NDArray[np.uint8], lesson: Lesson, *, epochs: int = 10) -> TileCnn:
    """Return a net whose trunk has learned from public crops; its linear layer is at zero."""
    net = TileCnn(SIDE, CHANNELS, seed=SEED)
    if lesson == "nothing":
        return net
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    targets = torch.from_numpy(encode(iter(crops)))
    targets = (targets - targets.mean(0)) / targets.std(0)
    reader = nn.Sequential(
        nn.Linear(CHANNELS[-1], 128), nn.ReLU(), nn.Linear(128, targets.shape[1])
    )
    optimizer = torch.optim.AdamW([*net.parameters(), *reader.parameters()], lr=2e-3)
    steps = epochs * (len(crops) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(crops), (BATCH,), generator=generator)
        told = reader(net.trunk(stained_anew(crops[chosen.numpy()], generator)))
        if lesson == "texture":
            loss = functional.mse_loss(told, targets[chosen])
        else:
            other = reader(net.trunk(stained_anew(crops[chosen.numpy()], generator)))
            alike = functional.normalize(told) @ functional.normalize(other).T / TEMPERATURE
            loss = functional.cross_entropy(alike, torch.arange(BATCH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net
