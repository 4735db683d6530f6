"""Pixels of a generated slide: stains in, light out.

Tissue is drawn as density of haematoxylin, eosin and the residual (solblom_models/tile_encoder/stain.py), so a
hospital's stain strength scales what a real stain scales. Any rectangle can be drawn on its own: noise and nuclei come
from hashed lattices in microns (value noise with cubic B-splines), and what a neighbour adds reaches over the margin.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from solblom_models.tile_encoder.stain import stain_matrix
from solblom_simulation.slide_noise import (
    GLASS,
    GRAIN_SIDE,
    Floats,
    Window,
    hashed,
    noise,
    repeating,
    tables,
)
from solblom_simulation.slide_scene import (
    FRAYED,
    FRAYED_MICRONS,
    Gland,
    SlidePlan,
    depth_of,
    glands_near,
    scene_of,
)

COARSE = 4.0  # microns between points where broad shapes are worked out
ILL_EDGE, NEST_EDGE = 16.0, 20.0  # microns over which stroma becomes lesion or nest
LONGEST = 10.0  # microns that a nucleus reaches from its centre
FINEST = 0.4  # microns; below, every other point is drawn and the optics fill in
FIBRE = 13.0  # microns between fibres
BENT_FAR, BENT_NEAR = 40.0, 3.2  # radians


@dataclass(frozen=True)
class Nuclei:
    """Nuclei to be stamped; each array has shape (N,)."""

    x: Floats
    y: Floats
    long: Floats  # half axes, microns
    short: Floats
    turn: Floats
    dark: Floats  # density of haematoxylin
    bend: Floats  # how far it is from an ellipse


def paint(plan: SlidePlan, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return a rectangle of the largest level, shape (height, width, 3), up to AT_ONCE a side."""
    times = 1 if plan.scanner.microns_per_pixel >= FINEST else 2
    blur = plan.scanner.blur_px / times
    reach = math.ceil(3 * blur) + 1
    step = plan.scanner.microns_per_pixel * times
    x, y = left // times - reach, top // times - reach
    light = _light(plan, _window(x, y, -(-width // times), -(-height // times), reach, step))
    sensor = tables(plan.seed, plan.scanner.noise)
    rows, columns = repeating(top, GRAIN_SIDE[0], height), repeating(left, GRAIN_SIDE[1], width)
    if light is None:
        return sensor.glass[rows, columns]
    x, y = left - x * times, top - y * times
    found = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):
        seen = ndimage.gaussian_filter(light[channel], blur, truncate=3.0)
        if times == 2:
            seen = _doubled(seen)
        seen = seen[y : y + height, x : x + width]
        if plan.scanner.gamma != 1:
            seen = seen ** np.float32(plan.scanner.gamma)
        seen = seen * np.float32(GLASS[channel]) + sensor.grain[channel, rows, columns]
        found[..., channel] = np.clip(seen, 0, 255, out=seen)
    return found


def _window(x: int, y: int, width: int, height: int, reach: int, step: float) -> Window:
    """Return a window from the point numbered x, y on; one point more, should a rectangle begin between two."""
    across = np.arange(x, x + width + 2 * reach + 1)
    down = np.arange(y, y + height + 2 * reach + 1)
    return Window(
        ((across + 0.5) * step).astype(np.float32), ((down + 0.5) * step).astype(np.float32), step
    )


def _doubled(values: Floats) -> Floats:
    """Return twice as many points each way, each a quarter of the way from its nearest to the next."""
    high, wide = values.shape
    rows = np.empty((2 * high, wide), dtype=np.float32)
    near, quarter = values * np.float32(0.75), values * np.float32(0.25)
    rows[0], rows[-1] = values[0], values[-1]
    np.add(near[1:], quarter[:-1], out=rows[2::2])
    np.add(near[:-1], quarter[1:], out=rows[1:-1:2])
    found = np.empty((2 * high, 2 * wide), dtype=np.float32)
    near, quarter = rows * np.float32(0.75), rows * np.float32(0.25)
    found[:, 0], found[:, -1] = rows[:, 0], rows[:, -1]
    np.add(near[:, 1:], quarter[:, :-1], out=found[:, 2::2])
    np.add(near[:, :-1], quarter[:, 1:], out=found[:, 1:-1:2])
    return found


def _share(depth: Floats, width: float) -> Floats:
    """Return 0 outside to 1 inside, over an edge of this width in microns."""
    found: Floats = np.clip(depth / np.float32(width) + np.float32(0.5), 0, 1)
    return found


def _light(plan: SlidePlan, window: Window) -> Floats | None:
    """Return the share of light that passes, (3, H, W), before the scanner; None where there is only glass."""
    scene = scene_of(plan)
    xs, ys = _coarse(window.x), _coarse(window.y)
    points = np.meshgrid(xs, ys)
    deep = depth_of(scene.pieces, points[0], points[1])
    if deep.max() < -3 * FRAYED:
        return None
    lesion = depth_of(scene.lesions, points[0], points[1])
    nest = depth_of(scene.nests, points[0], points[1])
    across, down = _spread(xs, window.x), _spread(ys, window.y)
    torn = noise(plan.seed, 1, FRAYED_MICRONS, window)
    tissue = _share(_filled(deep, down, across) + np.float32(FRAYED) * torn, 3)
    ill = _share(_filled(lesion, down, across) + np.float32(4) * torn, ILL_EDGE)
    lymph = _share(_filled(nest, down, across), NEST_EDGE)
    h, e = _ground(plan, window, torn, ill, lymph)
    glands = glands_near(plan, *window.ends)
    extra = [_draw_gland(gland, window, h, e) for gland in glands]
    nuclei = _nuclei(plan, Window(xs, ys, COARSE), (deep, lesion, nest), glands)
    dark = _stamp(nuclei + [n for n in extra if n is not None], window)
    return _through(plan, window, tissue, h, e, dark)


def _ground(
    plan: SlidePlan, window: Window, torn: Floats, ill: Floats, lymph: Floats
) -> tuple[Floats, Floats]:
    """Return haematoxylin and eosin of what lies between nuclei: fibres, and the cells' bodies."""
    wavy = noise(plan.seed, 3, 9.0, window)
    phase, bent = _fibres(plan, window)
    phase += np.float32(1.1) * wavy
    fibre = np.sin(phase)
    phase *= np.float32(2.7)
    phase += np.float32(2.5) * torn
    fibre += np.float32(0.5) * np.sin(phase, out=phase)
    fibre += np.float32(0.25) * noise(plan.seed, 4, 3.0, window)
    bent *= np.float32(0.7)
    cleft = fibre + bent
    cleft += np.float32(1.35)
    cleft *= np.float32(2.2)
    np.clip(cleft, 0, 1, out=cleft)
    fibre *= np.float32(0.07)
    fibre += np.float32(0.25)
    e = np.multiply(fibre, cleft, out=fibre)
    h = np.float32(0.02) + np.float32(0.01) * _texture(plan, 5, window)
    share = np.maximum(np.float32(0.88) * ill, np.float32(0.75) * lymph)
    if share.any():
        cells = np.float32(0.14) + np.float32(2.5) * h + np.float32(0.02) * wavy - e
        e += np.multiply(cells, share, out=cells)
        h += (np.float32(0.10) + np.float32(0.03) * wavy) * share
    return h, e


def _fibres(plan: SlidePlan, window: Window) -> tuple[Floats, Floats]:
    """Return a phase that is constant along the stroma's fibres, (H, W), and the finest noise that bends them."""
    grain = scene_of(plan).grain
    pace = np.float32(2 * math.pi / FIBRE)
    phase = noise(plan.seed, 7, 260.0, window)
    phase *= np.float32(BENT_FAR)
    bent = noise(plan.seed, 2, 70.0, window)
    phase += np.float32(BENT_NEAR) * bent
    phase += pace * (window.x * np.float32(math.cos(grain)))[None, :]
    phase += pace * (window.y * np.float32(math.sin(grain)))[:, None]
    return phase, bent


def _draw_gland(gland: Gland, window: Window, h: Floats, e: Floats) -> Nuclei | None:
    """Draw a gland's body and hole over the ground, and return the nuclei of its ring."""
    room = gland.radius * gland.stretch * 1.25
    columns = _between(window.x, gland.x - room, gland.x + room)
    rows = _between(window.y, gland.y - room, gland.y + room)
    if columns.stop > columns.start and rows.stop > rows.start:
        across, down = window.x[None, columns] - gland.x, window.y[rows, None] - gland.y
        cosine, sine = math.cos(gland.turn), math.sin(gland.turn)
        u = (across * cosine + down * sine) / np.float32(gland.stretch)
        v = down * cosine - across * sine
        angle = np.arctan2(v, u)
        share = np.hypot(u, v) / (gland.radius * (1 + _wobble(gland, angle)))
        body = np.clip((1 - share) * np.float32(gland.radius / 1.5), 0, 1)
        hole = np.clip((gland.hole - share) * np.float32(gland.radius / 1.2), 0, 1)
        fill = (0.0, 0.42) if gland.vessel else (0.0, 0.005)
        wall = (0.06, 0.3) if gland.vessel else (0.13, 0.15)
        for stain, inner, outer in ((h, fill[0], wall[0]), (e, fill[1], wall[1])):
            part = stain[rows, columns]
            texture = 0.25 * part if outer and not gland.vessel else 0.4 * part
            part += (outer + texture * np.float32(0.4) - part) * body
            part += (inner + np.float32(0.05) * texture - part) * hole
    return _ring(gland)


def _ring(gland: Gland) -> Nuclei | None:
    """Return nuclei along the outer wall, pointing to the middle."""
    length = 2 * math.pi * gland.radius * (1 + gland.stretch) / 2
    count = int(length / (16.0 if gland.vessel else 6.6))
    number = np.arange(count, dtype=np.int64)
    key = np.full(count, int(gland.x * 8) * 65_537 + int(gland.y * 8))
    luck = [hashed(7, 40 + k, number, key) for k in range(4)]
    angle = ((number + 0.5 * (luck[0] - 0.5)) * (2 * math.pi / count)).astype(np.float32)
    inset = 1.5 if gland.vessel else 5.0
    reach = (
        gland.radius * (1 + _wobble(gland, angle)) - inset - (0 if gland.vessel else 3.0 * luck[1])
    )
    u, v = reach * np.cos(angle) * gland.stretch, reach * np.sin(angle)
    cosine, sine = math.cos(gland.turn), math.sin(gland.turn)
    x, y = gland.x + u * cosine - v * sine, gland.y + u * sine + v * cosine
    outwards = np.arctan2(v, u) + gland.turn + (math.pi / 2 if gland.vessel else 0.0)
    long, short = (4.5, 1.3) if gland.vessel else (4.2, 2.7)
    return _as_nuclei(
        x, y, long * (0.85 + 0.3 * luck[2]), short, outwards, 0.62 + 0.2 * luck[3], 0.1
    )


def _nuclei(
    plan: SlidePlan,
    coarse: Window,
    depths: tuple[Floats, Floats, Floats],
    glands: list[Gland],
) -> list[Nuclei]:
    """Return the nuclei whose centres may reach into a window: of stroma, of lesions and of nests."""
    deep, lesion, nest = depths
    xs, ys = coarse.x, coarse.y
    slope = np.gradient(_fibres(plan, coarse)[0])
    along = np.arctan2(slope[0], slope[1]) + np.float32(math.pi / 2)
    found = []
    for salt, cell, kind in ((60, 15.0, "stroma"), (70, 9.4, "lesion"), (80, 7.0, "nest")):
        columns = np.arange(math.floor(xs[0] / cell), math.ceil(xs[-1] / cell) + 1)
        rows = np.arange(math.floor(ys[0] / cell), math.ceil(ys[-1] / cell) + 1)
        luck = [
            hashed(plan.seed, salt + k, columns[None, :], rows[:, None]).ravel() for k in range(8)
        ]
        x = ((columns[None, :] + 0.15 + 0.7 * luck[0].reshape(len(rows), -1)) * cell).ravel()
        y = ((rows[:, None] + 0.15 + 0.7 * luck[1].reshape(len(rows), -1)) * cell).ravel()
        turn = _nearest(along, xs, ys, x, y)
        inside = _nearest(deep, xs, ys, x, y) > 2
        ill = _share(_nearest(lesion, xs, ys, x, y), ILL_EDGE)
        lymph = _share(_nearest(nest, xs, ys, x, y), NEST_EDGE) * (1 - ill)
        share = {
            "stroma": scene_of(plan).cells * (1 - np.maximum(ill, lymph)),
            "lesion": 0.86 * ill,
            "nest": 0.9 * lymph,
        }
        kept = inside & (luck[2] < share[kind])
        for gland in glands:
            near = (
                np.hypot(x - gland.x, y - gland.y) < gland.radius * (1 + gland.stretch) / 2 * 1.08
            )
            kept &= ~near
        found.append(
            _of_kind(kind, x[kept], y[kept], [value[kept] for value in luck[3:]], turn[kept])
        )
    return found


def _of_kind(
    kind: str, x: NDArray[np.float64], y: NDArray[np.float64], luck: list[Floats], along: Floats
) -> Nuclei:
    """Return nuclei of stroma (thin, along the fibres, some round), lesion (large, odd) or nest (small, round)."""
    if kind == "nest":
        size = 2.7 + 0.5 * luck[0]
        return _as_nuclei(x, y, size * 1.05, size, math.pi * luck[1], 0.85 + 0.2 * luck[2], 0.03)
    if kind == "lesion":
        size = 3.3 + 2.6 * luck[0] ** 2
        turn = math.pi * luck[1]
        return _as_nuclei(
            x,
            y,
            size * (1.1 + 0.4 * luck[3]),
            size * 0.88,
            turn,
            0.6 + 0.5 * luck[2],
            0.9 * luck[4] - 0.45,
        )
    round_ones = luck[0] < 0.2
    long = np.where(round_ones, 3.1, 4.0 + 3.2 * luck[3])
    short = np.where(round_ones, 2.9, 1.1 + 0.7 * luck[4])
    turn = along + 0.9 * (luck[1] - 0.5)
    return _as_nuclei(x, y, long, short, turn, 0.65 + 0.25 * luck[2], 0.5 * luck[3] - 0.25)


def _as_nuclei(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    long: Floats | float,
    short: Floats | float,
    turn: Floats | float,
    dark: Floats | float,
    bend: Floats | float,
) -> Nuclei:
    rest = [
        np.broadcast_to(np.asarray(v, np.float32), x.shape) for v in (long, short, turn, dark, bend)
    ]
    return Nuclei(x.astype(np.float32), y.astype(np.float32), *rest)


def _stamp(kinds: list[Nuclei], window: Window) -> Floats:
    """Return haematoxylin of nuclei, (H, W): a soft ellipse each, and the darker of two where they overlap."""
    high, wide = len(window.y), len(window.x)
    found = np.zeros((high, wide), dtype=np.float32)
    for nuclei in kinds:
        if not len(nuclei.x):
            continue
        half = math.ceil((float(nuclei.long.max()) + 1.0) / window.step)
        side = 2 * half + 1
        column = np.round((nuclei.x - window.x[0]) / window.step).astype(np.int64)
        row = np.round((nuclei.y - window.y[0]) / window.step).astype(np.int64)
        near = (column > -half) & (column < wide + half) & (row > -half) & (row < high + half)
        index = np.nonzero(near)[0]
        for start in range(0, len(index), 64):
            some = index[start : start + 64]
            stamps = _stamps(nuclei, some, column[some], row[some], half, window)
            for stamp, x, y in zip(
                stamps, (column[some] - half).tolist(), (row[some] - half).tolist(), strict=True
            ):
                a, b, c, d = max(x, 0), max(y, 0), min(x + side, wide), min(y + side, high)
                part = found[b:d, a:c]
                np.maximum(part, stamp[b - y : d - y, a - x : c - x], out=part)
    return found


def _stamps(
    nuclei: Nuclei,
    some: NDArray[np.int64],
    column: NDArray[np.int64],
    row: NDArray[np.int64],
    half: int,
    window: Window,
) -> Floats:
    """Return squares of haematoxylin around nuclei, (N, side, side)."""
    reach = np.arange(-half, half + 1, dtype=np.float32) * np.float32(window.step)
    aside = (column * window.step + window.x[0] - nuclei.x[some]).astype(np.float32)
    below = (row * window.step + window.y[0] - nuclei.y[some]).astype(np.float32)
    across = (reach[None, :] + aside[:, None])[:, None, :]
    down = (reach[None, :] + below[:, None])[:, :, None]
    cosine, sine = (f(nuclei.turn[some])[:, None, None] for f in (np.cos, np.sin))
    long, short, dark, bend = (
        v[some][:, None, None] for v in (nuclei.long, nuclei.short, nuclei.dark, nuclei.bend)
    )
    u = (across * cosine + down * sine) / long
    v = (down * cosine - across * sine) / short
    v += bend * (u * u - np.float32(0.4))
    square = u * u + v * v
    inside = np.clip((1 - square) * (short * np.float32(0.7)), 0, 1)
    # Chromatin lies along the rim.
    found: Floats = inside * dark * (np.float32(0.78) + np.float32(0.3) * np.minimum(square, 1))
    return found


def _through(
    plan: SlidePlan, window: Window, tissue: Floats, h: Floats, e: Floats, dark: Floats
) -> Floats:
    """Return the light that passes stained tissue, (3, H, W) (Beer-Lambert)."""
    chromatin = _texture(plan, 6, window)
    covered = np.minimum(dark * np.float32(1.6), 0.75)
    e = e * (1 - covered) + np.float32(0.1) * covered
    h = h * (1 - covered) + dark * (1 + np.float32(0.16) * chromatin)
    strength = scene_of(plan).strength
    h = np.maximum(h, 0) * tissue * np.float32(plan.stain[0] * strength[0])
    e = np.maximum(e, 0) * tissue * np.float32(plan.stain[1] * strength[1])
    rest = np.float32(0.85) * e + np.float32(0.28) * h
    colours = stain_matrix().numpy().astype(np.float32) * np.float32(-math.log(10))
    found = np.empty((3, *h.shape), dtype=np.float32)
    for channel in range(3):
        density = h * colours[0, channel]
        density += e * colours[1, channel]
        density += rest * colours[2, channel]
        np.exp(density, out=found[channel])
    return found


def _coarse(places: Floats) -> Floats:
    """Return coarse points around places, far enough for any nucleus that reaches in."""
    first = math.floor((float(places[0]) - LONGEST) / COARSE) - 1
    last = math.ceil((float(places[-1]) + LONGEST) / COARSE) + 1
    return (np.arange(first, last + 1) * COARSE).astype(np.float32)


def _spread(coarse: Floats, places: Floats) -> Floats:
    """Return the weights that interpolate from coarse points to places, (places, coarse)."""
    scaled = (places - coarse[0]) / np.float32(COARSE)
    whole = np.floor(scaled).astype(np.int64)
    weights = np.zeros((len(places), len(coarse)), dtype=np.float32)
    row = np.arange(len(places))
    weights[row, whole] = 1 - (scaled - whole)
    weights[row, whole + 1] = scaled - whole
    return weights


def _filled(values: Floats, down: Floats, across: Floats) -> Floats:
    """Return values between coarse points, by the weights of `_spread`."""
    found: Floats = (down @ values @ across.T).astype(np.float32, copy=False)
    return found


def _nearest(
    values: Floats, xs: Floats, ys: Floats, x: NDArray[np.floating], y: NDArray[np.floating]
) -> Floats:
    column = np.clip(np.round((x - xs[0]) / COARSE).astype(np.int64), 0, len(xs) - 1)
    row = np.clip(np.round((y - ys[0]) / COARSE).astype(np.int64), 0, len(ys) - 1)
    found: Floats = values[row, column]
    return found


def _between(places: Floats, low: float, high: float) -> slice:
    start, stop = np.searchsorted(places, [low, high])
    return slice(int(start), int(stop))


def _wobble(gland: Gland, angle: Floats) -> Floats:
    size, phase = gland.wave
    found: Floats = np.float32(size) * (
        np.cos(3 * angle + phase) + 0.6 * np.cos(5 * angle + 2 * phase)
    )
    return found


def _texture(plan: SlidePlan, salt: int, window: Window) -> Floats:
    """Return fine texture of unit variance at a window's points, (H, W)."""
    row = round(float(window.y[0]) / window.step - 0.5) + 41 * salt
    column = round(float(window.x[0]) / window.step - 0.5) + 67 * salt
    rows = repeating(row, GRAIN_SIDE[0], len(window.y))
    return tables(plan.seed, plan.scanner.noise).texture[
        rows, repeating(column, GRAIN_SIDE[1], len(window.x))
    ]
