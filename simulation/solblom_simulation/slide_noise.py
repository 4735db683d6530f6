"""Noise for generated slides, each number from its place and a seed alone, whatever else is drawn."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]

AT_ONCE = 512  # the largest rectangle's side
GLASS = (246.0, 245.0, 244.0)
GRAIN_SIDE = (257, 263)  # of the table of sensor noise, which repeats
UNIT = np.float32(3.6)  # makes value noise of U(-1, 1) by cubic B-splines of about unit variance


@dataclass(frozen=True)
class Window:
    """Points at which something is drawn: centres of pixels, microns."""

    x: Floats  # (W,)
    y: Floats  # (H,)
    step: float

    @property
    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """First and last point, across and down."""
        return (float(self.x[0]), float(self.x[-1])), (float(self.y[0]), float(self.y[-1]))


def hashed(seed: int, salt: int, x: NDArray[np.int64], y: NDArray[np.int64]) -> Floats:
    """Return numbers in [0, 1) that follow from whole coordinates (the finaliser of MurmurHash3), broadcast."""
    start = (seed * 0x9E3779B1 + salt * 0x7FEB352D) & 0xFFFFFFFF
    mixed = x.astype(np.uint32) * np.uint32(0x85EBCA77) + np.uint32(start)
    mixed = _scrambled(mixed)[...] + y.astype(np.uint32) * np.uint32(0xC2B2AE3D)
    found: Floats = (_scrambled(mixed) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return found


def _scrambled(value: NDArray[np.uint32]) -> NDArray[np.uint32]:
    value = (value ^ (value >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    value = (value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return value ^ (value >> np.uint32(16))


def noise(seed: int, salt: int, spacing: float, window: Window) -> Floats:
    """Return smooth noise of about unit variance at a window's points, (H, W); `spacing` in microns."""
    across, first = _splines(window.x, spacing)
    down, start = _splines(window.y, spacing)
    columns = np.arange(first, first + across.shape[1])
    rows = np.arange(start, start + down.shape[1])
    values = (hashed(seed, salt, columns[None, :], rows[:, None]) * 2 - 1) * UNIT
    found: Floats = down @ values @ across.T
    return found


def _splines(places: Floats, spacing: float) -> tuple[Floats, int]:
    """Return weights of the lattice's points for each place, (N, points), and the first point's number."""
    scaled = places.astype(np.float64) / spacing
    whole = np.floor(scaled).astype(np.int64)
    t = (scaled - whole).astype(np.float32)
    first = int(whole[0]) - 1
    weights = np.zeros((len(places), int(whole[-1]) + 3 - first), dtype=np.float32)
    row, column = np.arange(len(places)), whole - 1 - first
    weights[row, column] = (1 - t) ** 3 / 6
    weights[row, column + 1] = (3 * t**3 - 6 * t**2 + 4) / 6
    weights[row, column + 2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
    weights[row, column + 3] = t**3 / 6
    return weights, first


@dataclass(frozen=True)
class Tables:
    """Noise that repeats: the sensor's, in three colours, and fine texture of unit variance."""

    grain: Floats  # (3, H, W), with half a step to be rounded
    glass: NDArray[np.uint8]  # (H, W, 3)
    texture: Floats  # (H, W)


@lru_cache(maxsize=2)
def tables(seed: int, strength: float) -> Tables:
    """Return a slide's tables; `strength` is the sensor's standard deviation, of 255."""
    draw = np.random.default_rng((seed, 2))
    grain = draw.standard_normal((3, *GRAIN_SIDE)).astype(np.float32) * np.float32(
        strength
    ) + np.float32(0.5)
    fine = ndimage.gaussian_filter(draw.standard_normal(GRAIN_SIDE), 1.1, mode="wrap")
    texture = (fine / fine.std()).astype(np.float32)
    room = ((0, AT_ONCE + 64), (0, AT_ONCE + 64))
    grain = np.pad(grain, ((0, 0), *room), mode="wrap")
    glass = np.clip(np.moveaxis(grain, 0, 2) + np.array(GLASS, np.float32), 0, 255).astype(np.uint8)
    return Tables(grain, glass, np.pad(texture, room, mode="wrap"))


def repeating(start: int, period: int, count: int) -> slice:
    """Return where so many points from a start stand in a table that repeats; tables hold more than a period."""
    return slice(start % period, start % period + count)
