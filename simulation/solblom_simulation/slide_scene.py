"""What is on a generated slide and where, in microns: pieces of tissue, lesions, nests of lymphocytes, glands.

Everything follows from the plan's seed. A point's content needs no other point, so that parts of a slide can be drawn
on their own: broad shapes are a few lumps per slide, and small things sit in the cells of endless hashed lattices.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from solblom_simulation.slide_noise import Floats, hashed

HARMONICS = 6
FAR = 60.0  # microns outside of a lump, from where on its depth does not matter
CORNERS = 96  # of a lesion's polygon
GLAND_CELL = 120.0  # microns; at most one gland in each
GLAND_SHARE = 0.6
LESION_MICRONS, NEST_MICRONS = (90.0, 190.0), (28.0, 75.0)  # radius, least and most
FRAYED, FRAYED_MICRONS = 7.0, 22.0  # how far, and how finely, the tissue's edge is torn
SHARE_POINTS = 16  # a side, of a tile, to measure what is lesion


@dataclass(frozen=True)
class Scanner:
    """How a made-up hospital's scanner draws.

    Attributes:
        name: of the made-up scanner.
        microns_per_pixel: of the largest level.
        blur_px: standard deviation of its optics, pixels.
        gamma: of its brightness; above 1 is darker.
        noise: standard deviation, of 255.
    """

    name: str
    microns_per_pixel: float
    blur_px: float
    gamma: float
    noise: float


@dataclass(frozen=True)
class SlidePlan:
    """Everything that decides a slide.

    Attributes:
        seed: public.
        width: pixels of the largest level.
        height: as `width`.
        scanner: which draws it.
        stain: strength of haematoxylin and of eosin; 1 is usual.
        lesions: how many; 0 for none.
    """

    seed: int
    width: int
    height: int
    scanner: Scanner
    stain: tuple[float, float] = (1.0, 1.0)
    lesions: int = 0

    @property
    def microns(self) -> tuple[float, float]:
        """Width and height in microns."""
        side = self.scanner.microns_per_pixel
        return self.width * side, self.height * side


@dataclass(frozen=True)
class Lesion:
    """A planted lesion: corners of its outline, pixels of the largest level. Tissue may end inside of it."""

    polygon: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Lump:
    """A round shape with a wavy outline: the radius is a sum of few cosines of the angle, so it is connected."""

    x: float
    y: float
    radius: float
    stretch: float  # along the angle `turn`
    turn: float
    waves: tuple[tuple[float, float], ...]  # amplitude and phase of the harmonics from 2 on

    def depth(self, x: Floats, y: Floats) -> Floats:
        """Return how deep inside points lie, microns; negative outside."""
        across, down = x - np.float32(self.x), y - np.float32(self.y)
        cosine, sine = np.float32(math.cos(self.turn)), np.float32(math.sin(self.turn))
        u, v = (
            (across * cosine + down * sine) / np.float32(self.stretch),
            down * cosine - across * sine,
        )
        found: Floats = self.reach(np.arctan2(v, u)) - np.hypot(u, v)
        return found

    def reach(self, angle: Floats) -> Floats:
        """Return the radius at an angle, before the shape is stretched."""
        found = np.full_like(angle, self.radius)
        for number, (size, phase) in enumerate(self.waves, start=2):
            found += np.float32(self.radius * size) * np.cos(
                np.float32(number) * angle + np.float32(phase)
            )
        return found

    def outline(self) -> list[tuple[float, float]]:
        """Return corners on the outline, microns."""
        angle = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False, dtype=np.float32)
        reach = self.reach(angle)
        u, v = reach * np.cos(angle) * self.stretch, reach * np.sin(angle)
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        x, y = self.x + u * cosine - v * sine, self.y + u * sine + v * cosine
        return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


@dataclass(frozen=True)
class Scene:
    """What is on a slide."""

    pieces: tuple[Lump, ...]
    lesions: tuple[Lump, ...]
    nests: tuple[Lump, ...]  # of lymphocytes: dense and dark, and no lesion
    grain: float  # the angle in which the stroma's fibres run
    cells: float  # how full of nuclei the stroma is, 0 to 1
    strength: tuple[float, float]  # of the stains on this slide, beside the hospital's usual ones


@dataclass(frozen=True)
class Gland:
    """A ring of epithelium around a hole; or, with `vessel`, a thin wall around blood."""

    x: float
    y: float
    radius: float
    stretch: float
    turn: float
    wave: tuple[float, float]
    hole: float  # share of the radius
    vessel: bool


@lru_cache(maxsize=64)
def scene_of(plan: SlidePlan) -> Scene:
    """Return what is on a slide."""
    draw = np.random.default_rng((plan.seed, 1))
    pieces = _pieces(plan, draw)
    nests = tuple(
        _inside(piece, NEST_MICRONS, draw) for piece in pieces for _ in range(draw.integers(0, 6))
    )
    grain = float(draw.uniform(0, math.pi))
    h, e = draw.uniform(0.75, 1.25, size=2)
    cells = float(draw.uniform(0.3, 0.85))
    # Lesions have numbers of their own: a slide without them is the same otherwise.
    own = np.random.default_rng((plan.seed, 4))
    lesions = tuple(
        _inside(pieces[i % len(pieces)], LESION_MICRONS, own) for i in range(plan.lesions)
    )
    return Scene(pieces, lesions, nests, grain, cells, (float(h), float(e)))


def lesions_of(plan: SlidePlan) -> tuple[Lesion, ...]:
    """Return the planted lesions."""
    side = plan.scanner.microns_per_pixel
    return tuple(
        Lesion(tuple((x / side, y / side) for x, y in lump.outline()))
        for lump in scene_of(plan).lesions
    )


def lesion_share(plan: SlidePlan, places: NDArray[np.int64], side: float) -> NDArray[np.float64]:
    """Return the share of each tile that is lesion, shape (N,).

    Args:
        plan: of the slide.
        places: upper left corners, pixels of the largest level, shape (N, 2).
        side: of a tile, pixels of the largest level.
    """
    if not len(places):
        return np.zeros(0)
    step = plan.scanner.microns_per_pixel
    within = (np.arange(SHARE_POINTS) + 0.5) / SHARE_POINTS * side
    x = ((places[:, 0, None, None] + within[None, None, :]) * step).astype(np.float32)
    y = ((places[:, 1, None, None] + within[None, :, None]) * step).astype(np.float32)
    x, y = np.broadcast_arrays(x, y)
    inside = (depth_of(scene_of(plan).lesions, x, y) > 0) & (
        depth_of(scene_of(plan).pieces, x, y) > 0
    )
    found: NDArray[np.float64] = inside.mean(axis=(1, 2), dtype=np.float64)
    return found


def depth_of(lumps: tuple[Lump, ...], x: Floats, y: Floats) -> Floats:
    """Return how deep inside of any lump points lie, microns; negative outside of all, and -1000 far outside."""
    found = np.full(np.broadcast(x, y).shape, -1000, dtype=np.float32)
    across, down = _bounds(x), _bounds(y)
    for lump in lumps:
        room = 1.5 * lump.radius * max(lump.stretch, 1.0) + FAR
        if math.hypot(_gap(lump.x, across), _gap(lump.y, down)) < room:
            np.maximum(found, lump.depth(x, y), out=found)
    return found


def _bounds(places: Floats) -> tuple[float, float]:
    return float(places.min()), float(places.max())


def _gap(place: float, ends: tuple[float, float]) -> float:
    return max(ends[0] - place, place - ends[1], 0.0)


def glands_near(plan: SlidePlan, x: tuple[float, float], y: tuple[float, float]) -> list[Gland]:
    """Return the glands and vessels that may reach into a rectangle of microns, ends included."""
    columns = np.arange(math.floor(x[0] / GLAND_CELL) - 1, math.floor(x[1] / GLAND_CELL) + 2)
    rows = np.arange(math.floor(y[0] / GLAND_CELL) - 1, math.floor(y[1] / GLAND_CELL) + 2)
    luck = [hashed(plan.seed, 20 + k, columns[None, :], rows[:, None]) for k in range(9)]
    kept = np.argwhere(luck[0] < GLAND_SHARE)
    found = [
        _gland([float(value[i, j]) for value in luck], int(columns[j]), int(rows[i]))
        for i, j in kept
    ]
    return [gland for gland in found if _fits(gland, scene_of(plan))]


def _pieces(plan: SlidePlan, draw: np.random.Generator) -> tuple[Lump, ...]:
    """Return one to three pieces of tissue, side by side along the longer side."""
    width, height = plan.microns
    count = int(draw.choice([1, 1, 2, 2, 3]))
    longer, shorter = max(width, height), min(width, height)
    found = []
    for number in range(count):
        radius = longer / count * 0.41 * float(draw.uniform(0.85, 1.0))
        along = shorter * 0.41 * float(draw.uniform(0.75, 1.0))
        place = (number + 0.5) / count * longer, shorter * float(draw.uniform(0.47, 0.53))
        x, y = place if width >= height else place[::-1]
        turn = (math.pi / 2 if width >= height else 0.0) + float(draw.uniform(-0.15, 0.15))
        found.append(Lump(x, y, radius, along / radius, turn, _waves(draw, 0.08)))
    return tuple(found)


def _inside(piece: Lump, size: tuple[float, float], draw: np.random.Generator) -> Lump:
    """Return a lump whose centre lies inside of a piece; its radius, in microns, leaves room for other tissue."""
    room = piece.radius * min(piece.stretch, 1.0)
    angle, way = draw.uniform(0, 2 * math.pi), room * math.sqrt(draw.uniform(0.0, 0.3))
    radius = min(float(draw.uniform(*size)), 0.75 * room)
    turn = float(draw.uniform(0, math.pi))
    x, y = piece.x + way * math.cos(angle), piece.y + way * math.sin(angle)
    return Lump(x, y, radius, float(draw.uniform(1.0, 1.3)), turn, _waves(draw, 0.12))


def _waves(draw: np.random.Generator, size: float) -> tuple[tuple[float, float], ...]:
    sizes = draw.uniform(0.3, 1.0, size=HARMONICS) * size / np.arange(1, HARMONICS + 1) ** 0.5
    phases = draw.uniform(0, 2 * math.pi, size=HARMONICS)
    return tuple((float(a), float(b)) for a, b in zip(sizes, phases, strict=True))


def _gland(luck: list[float], column: int, row: int) -> Gland:
    vessel = luck[8] < 0.18
    return Gland(
        x=(column + 0.5 + 0.3 * (luck[1] - 0.5)) * GLAND_CELL,
        y=(row + 0.5 + 0.3 * (luck[2] - 0.5)) * GLAND_CELL,
        radius=(9.0 + 9.0 * luck[3]) if vessel else (22.0 + 20.0 * luck[3]),
        stretch=1.0 + (0.9 if vessel else 0.5) * luck[4],
        turn=math.pi * luck[5],
        wave=(0.06 + 0.08 * luck[6], 2 * math.pi * luck[7]),
        hole=0.78 if vessel else 0.3 + 0.25 * luck[6],
        vessel=vessel,
    )


def _fits(gland: Gland, scene: Scene) -> bool:
    """Tell whether a gland lies wholly in tissue, and outside of lesions and nests."""
    x, y = np.array([gland.x], dtype=np.float32), np.array([gland.y], dtype=np.float32)
    room = gland.radius * gland.stretch
    if depth_of(scene.pieces, x, y)[0] < room + FRAYED:
        return False
    return bool(depth_of((*scene.lesions, *scene.nests), x, y)[0] < -room)
