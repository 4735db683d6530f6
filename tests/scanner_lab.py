"""Files as scanners lay them out, as small as OpenSlide takes them: what is read here is our code and OpenSlide's.

Nobody's tissue. Layouts as OpenSlide 4.0 documents and reads them: NDPI (Hamamatsu), SCN (Leica), BIF and TIFF
(Ventana), DICOM (PS3.3 A.32.8, VL Whole Slide Microscopy).
"""

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

MICRONS = 0.5
TILE = 256
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # the class of a VL Whole Slide Microscopy image
Pixels = NDArray[np.uint8]


def jpeg(pixels: Pixels) -> bytes:
    """Return a baseline JPEG without chroma subsampling."""
    return bytes(imagecodecs.jpeg8_encode(pixels, level=98, subsampling="444"))


def write_ndpi(path: Path, pixels: Pixels) -> Path:
    """Write one level as one JPEG in one strip, in TIFF with Hamamatsu's 64-bit offsets, and a macro image."""
    macro = np.full((64, 160, 3), 200, dtype=np.uint8)
    per_cm = round(10_000 / MICRONS)
    parts, at = [b"II*\0" + bytes(8)], 12
    directories = []
    for picture, lens in ((pixels, 20.0), (macro, -1.0)):
        data = jpeg(picture)
        parts += [data, struct.pack("<IIII", per_cm, 1, per_cm, 1), struct.pack("<HHH", 8, 8, 8)]
        directories.append(_ndpi_tags(picture, lens, at, len(data)))
        at += len(data) + 16 + 6
    starts = []
    for entries in directories:
        starts.append(at)
        at += 2 + 12 * len(entries) + 8 + 4 * len(entries)
    for entries, after in zip(directories, [*starts[1:], 0], strict=True):
        body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        high_words = bytes(4 * len(entries))
        parts.append(struct.pack("<H", len(entries)) + body + struct.pack("<Q", after) + high_words)
    whole = bytearray(b"".join(parts))
    struct.pack_into("<Q", whole, 4, starts[0])
    path.write_bytes(whole)
    return path


def _ndpi_tags(picture: Pixels, lens: float, at: int, size: int) -> list[tuple[int, int, int, int]]:
    """Return (tag, type, count, value) of an image whose JPEG begins at `at`, its resolution and bits behind it."""
    high, wide = picture.shape[:2]
    return [
        (254, 4, 1, 0),
        (256, 4, 1, wide),
        (257, 4, 1, high),
        (258, 3, 3, at + size + 16),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (271, 2, 4, int.from_bytes(b"NDP\0", "little")),
        (273, 4, 1, at),
        (277, 3, 1, 3),
        (278, 4, 1, high),
        (279, 4, 1, size),
        (282, 5, 1, at + size),
        (283, 5, 1, at + size + 8),
        (284, 3, 1, 1),
        (296, 3, 1, 3),
        (65420, 4, 1, 1),  # what makes it an NDPI
        (65421, 11, 1, struct.unpack("<I", struct.pack("<f", lens))[0]),  # -1: a macro image
        (65422, 9, 1, 0),
        (65423, 9, 1, 0),
        (65424, 9, 1, 0),  # focal plane
    ]


def _tiled(file: tifffile.TiffWriter, pixels: Pixels, **more: Any) -> None:
    values: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "tile": (TILE, TILE)}
    file.write(pixels, metadata=None, software=False, **(values | more))


def write_scn(path: Path, pixels: Pixels) -> Path:
    """Write a Leica collection: a macro of the whole glass, and one area scanned at 20x, in the middle of it."""
    height, width = pixels.shape[:2]
    nm = round(MICRONS * 1000)
    macro = np.full((TILE, TILE * 2, 3), 230, dtype=np.uint8)
    glass = width * nm * 2, height * nm * 2
    said = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" sizeX="{glass[0]}" sizeY="{glass[1]}"><barcode>x</barcode>'
        + _scn_image(0, (TILE * 2, TILE), glass, (0, 0), "0.60833")
        + _scn_image(
            1, (width, height), (width * nm, height * nm), (glass[0] // 4, glass[1] // 4), "20"
        )
        + "</collection></scn>"
    )
    per_cm = 10_000 / MICRONS
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        _tiled(file, macro, description=said)
        _tiled(file, pixels, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    return path


def _scn_image(
    ifd: int, size: tuple[int, int], view: tuple[int, int], at: tuple[int, int], power: str
) -> str:
    """Return what is said of an image: its pixels, and the nanometres of the glass that it shows."""
    sides = f'sizeX="{size[0]}" sizeY="{size[1]}"'
    return (
        f'<image name="i{ifd}"><device model="m" version="1"/><creationDate>2020-01-01T00:00:00Z</creationDate>'
        f'<pixels {sides}><dimension {sides} r="0" ifd="{ifd}"/></pixels>'
        f'<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{at[0]}" offsetY="{at[1]}" spacingZ="0"/>'
        f"<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings>"
        "<illuminationSettings><numericalAperture>0.8</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
    )


def write_ventana(
    path: Path, pixels: Pixels, *, stitched: bool = False, upwards: bool = True
) -> Path:
    """Write an overview and one level.

    Args:
        path: of the file.
        pixels: of the level.
        stitched: as a BIF, whose tiles say how they lie to each other.
        upwards: they say so of rows too; without, nothing follows for the slide's height.
    """
    scan = f'<iScan Magnification="20" ScanRes="{MICRONS}" UnitNumber="1" UserName="u"></iScan>'
    about = scan if stitched else f"<Metadata>{scan}</Metadata>"
    area = _stitching(pixels.shape[1] // TILE, pixels.shape[0] // TILE, upwards=upwards)
    small = np.full((TILE, TILE, 3), 230, dtype=np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        xmp = (700, "B", len(about), about.encode(), True)
        _tiled(file, small, description="Label Image", tile=None, rowsperstrip=16, extratags=[xmp])
        more = [(700, "B", len(area), area.encode(), True)] if stitched else []
        _tiled(file, pixels, description="level=0 mag=20 quality=95", extratags=more)
    return path


def _stitching(columns: int, rows: int, *, upwards: bool) -> str:
    """Return how the tiles of one area lie to each other: side by side."""

    def number(column: int, row: int) -> int:  # from below, and every second row from the right
        above = rows - 1 - row
        return above * columns + (columns - 1 - column if above % 2 else column) + 1

    def joint(way: str, one: int, other: int) -> str:
        tiles = f'Direction="{way}" Tile1="{one}" Tile2="{other}"'
        return f'<TileJointInfo FlagJoined="1" Confidence="99" {tiles} OverlapX="0" OverlapY="0"/>'

    places = [(c, row) for row in range(rows) for c in range(columns)]
    joints = [joint("RIGHT", number(c, r), number(c + 1, r)) for c, r in places if c < columns - 1]
    if upwards:
        joints += [joint("UP", number(c, r), number(c, r - 1)) for c, r in places if r]
    frames = "".join(f'<Frame XY="{c},{r}" Z="0" Col="{c}" Row="{r}"/>' for c, r in places)
    return (
        '<EncodeInfo Ver="2"><SlideInfo><iScan/></SlideInfo><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" '
        f'NumCols="{columns}" NumRows="{rows}" Width="{TILE}" Height="{TILE}" Pos-X="0" Pos-Y="0">'
        f"{''.join(joints)}</ImageInfo></SlideStitchInfo>"
        f'<FrameInfo><ImageInfo AOIIndex="0">{frames}</ImageInfo></FrameInfo>'
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )


def _element(tag: int, kind: str, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    data += (b"\0" if kind in ("UI", "OB") else b" ") * (len(data) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
    if kind in ("OB", "SQ", "UN"):
        return head + struct.pack("<HI", 0, len(data)) + data
    return head + struct.pack("<H", len(data)) + data


def _sequence(tag: int, *items: bytes) -> bytes:
    told = [struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items]
    return _element(tag, "SQ", b"".join(told))


def write_dicom(path: Path, pixels: Pixels) -> Path:
    """Write one level as TILED_FULL frames of baseline JPEG."""
    meta = b"".join(
        [
            _element(0x00020001, "OB", b"\0\1"),
            _element(0x00020002, "UI", WHOLE_SLIDE),
            _element(0x00020003, "UI", "1.2.3.4.1"),
            _element(0x00020010, "UI", "1.2.840.10008.1.2.4.50"),
            _element(0x00020012, "UI", "1.2.3"),
        ]
    )
    places = [
        (r, c) for r in range(pixels.shape[0] // TILE) for c in range(pixels.shape[1] // TILE)
    ]
    items = [struct.pack("<HHI", 0xFFFE, 0xE000, 0)]  # an offset table that says nothing
    for row, column in places:
        part = np.ascontiguousarray(pixels[row * TILE :, column * TILE :][:TILE, :TILE])
        frame = bytes(
            imagecodecs.jpeg8_encode(part, level=98, subsampling="444", outcolorspace="rgb")
        )
        frame += b"\0" * (len(frame) % 2)
        items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + b"".join(items) + end
    length = _element(0x00020000, "UL", struct.pack("<I", len(meta)))
    head = _dicom_head(pixels.shape[1], pixels.shape[0], len(places))
    path.write_bytes(bytes(128) + b"DICM" + length + meta + head + data)
    return path


def _dicom_head(width: int, height: int, frames: int) -> bytes:
    spacing = f"{MICRONS / 1000}\\{MICRONS / 1000}"
    optics = _element(0x00480106, "SH", "1") + _element(0x00480112, "DS", "20")
    numbers = {0x00280002: 3, 0x00280006: 0, 0x00280010: TILE, 0x00280011: TILE}
    numbers |= {0x00280100: 8, 0x00280101: 8, 0x00280102: 7, 0x00280103: 0}
    elements = {
        0x00080008: ("CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
        0x00080016: ("UI", WHOLE_SLIDE),
        0x00080018: ("UI", "1.2.3.4.1"),
        0x00080060: ("CS", "SM"),
        0x0020000D: ("UI", "1.2.3.4.2"),
        0x0020000E: ("UI", "1.2.3.4.3"),
        0x00209311: ("CS", "TILED_FULL"),
        0x00280004: ("CS", "RGB"),
        0x00280008: ("IS", str(frames)),
        0x00480006: ("UL", struct.pack("<I", width)),
        0x00480007: ("UL", struct.pack("<I", height)),
    }
    found = {tag: _element(tag, kind, value) for tag, (kind, value) in elements.items()}
    found |= {tag: _element(tag, "US", struct.pack("<H", n)) for tag, n in numbers.items()}
    found[0x00480105] = _sequence(0x00480105, optics)
    found[0x52009229] = _sequence(
        0x52009229, _sequence(0x00289110, _element(0x00280030, "DS", spacing))
    )
    return b"".join(found[tag] for tag in sorted(found))
