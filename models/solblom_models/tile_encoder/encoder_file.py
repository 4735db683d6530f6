"""Encoders as a contract names them: the built-in one, or a file of weights with the digest that all hospitals share.

An encoder file is code that somebody else made, so it is loaded only where the hospital has listed it, from bytes whose
digest was compared, and by a process without a network (client/solblom_client/slides/worker.py); TorchScript only if it
calls nothing that reaches files (torchscript_file.py). Nothing of it is unpickled as Python: torch.jit reads
TorchScript's own types, and onnxruntime a graph whose weights must lie in the file itself: it looks for others in an
empty folder only, for by itself it would take them from the current one, and the digest would pin the graph without its
weights.
"""

import hashlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.tile_encoder.encoder import encode, encoder_digest
from solblom_models.tile_encoder.torchscript_file import TorchScriptError, checked_archive
from solblom_protocol.contracts.bags import Encoder
from solblom_protocol.errors import ConfigurationError, IntegrityError

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From tiles (B, P, P, 3) of bytes to features (B, own_dim)."""
SAME = 1e-3  # of the largest feature: how far rounding may move one
_OUTSIDE = "session.model_external_initializers_file_folder_path"
"""Where onnxruntime looks for weights outside of a graph; it refuses paths that lead out of there (1.32)."""


def open_encoder(encoder: Encoder, file: Path | None = None, *, device: str = "cpu") -> Encode:
    """Return what turns tiles into features, tried once on an empty tile.

    Args:
        encoder: of the contract; kinds `builtin`, `torchscript` and `onnx`.
        file: the weights of an encoder file, as this hospital has listed it.
        device: of torch, for TorchScript.

    Raises:
        ConfigurationError: SB-119, it is missing, cannot be loaded, or gives other features than the contract says;
            SB-118, onnxruntime is not installed.
        IntegrityError: SB-405, it is not the file that the contract pins.
    """
    if encoder.kind == "builtin":
        if encoder.sha256 != encoder_digest():
            raise IntegrityError(
                "SB-405",
                f"The contract pins the built-in encoder {str(encoder.sha256)[:12]}…, "
                f"and this version has {encoder_digest()[:12]}…",
                "Use the version of Solblom that the study was written with",
            )
        _try(_builtin, encoder)
        return _builtin
    if encoder.kind not in ("torchscript", "onnx"):
        raise ConfigurationError(
            "SB-119",
            f"An encoder of kind {encoder.kind} does not run here",
            "Its features are read as they are",
        )
    if file is None:
        raise ConfigurationError(
            "SB-119",
            f"The encoder {encoder.name} ({str(encoder.sha256)[:12]}…) is not given",
            "List its file in node.toml under [[encoder]], or name it with --encoder",
        )
    data = _pinned_bytes(file, str(encoder.sha256))
    found: Encode = (
        _torchscript(data, encoder, device)
        if encoder.kind == "torchscript"
        else _onnx(data, encoder)
    )
    _try(found, encoder)
    return found


def _pinned_bytes(file: Path, sha256: str) -> bytes:
    """Return the file's bytes: what was hashed is what is loaded.

    Raises:
        ConfigurationError: SB-119, it cannot be read.
        IntegrityError: SB-405, its digest is another.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            "SB-119", f"The encoder's file {file} cannot be read: {error.strerror}"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise IntegrityError(
            "SB-405",
            f"The encoder's file has the digest {found[:12]}…, and the contract pins {sha256[:12]}…",
            "Get the file that all hospitals of the study use",
        )
    return data


def _builtin(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    return encode(tiles)


def _normalised(tiles: NDArray[np.uint8], encoder: Encoder) -> NDArray[np.float32]:
    """Return tiles as encoder files take them: (B, 3, P, P), (rgb / 255 - mean) / std."""
    mean, std = (np.asarray(v, dtype=np.float32) for v in (encoder.mean, encoder.std))
    scaled = (tiles.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


def _torchscript(data: bytes, encoder: Encoder, device: str) -> Encode:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.13 still reads it
            net = torch.jit.load(checked_archive(data), map_location=device)  # type: ignore[no-untyped-call]
    except TorchScriptError as error:
        raise _not_loaded(encoder, f"TorchScript: {error}") from None
    except Exception:  # whatever torch says of a file from outside
        raise _not_loaded(encoder, "TorchScript") from None
    net.eval()

    def run(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            found = net(torch.from_numpy(_normalised(tiles, encoder)).to(device))
        return np.asarray(found.float().cpu().numpy(), dtype=np.float32)

    return run


def _onnx(data: bytes, encoder: Encoder) -> Encode:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigurationError(
            "SB-118",
            "Encoders of kind onnx need the package onnxruntime, which is not installed",
            "pip install 'solblom-models[onnx]'",
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its words hold names of the graph
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        with (
            tempfile.TemporaryDirectory() as empty
        ):  # weights are read while a session is made, and never after
            options.add_session_config_entry(_OUTSIDE, empty)
            session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        name = session.get_inputs()[0].name
    except Exception:
        raise _not_loaded(encoder, "ONNX") from None

    def run(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = session.run(None, {name: _normalised(tiles, encoder)})[0]
        return np.asarray(found, dtype=np.float32)

    return run


def _try(run: Encode, encoder: Encoder) -> None:
    """Encode three tiles, the same in another order, and one alone.

    Raises:
        ConfigurationError: SB-119, it fails, what it gives is not (n, own_dim) of finite numbers, or a tile's features
            depend on chance, or on what was encoded before or beside it.
    """
    side = encoder.tile_px
    tiles = np.full((3, side, side, 3), 255, dtype=np.uint8)
    tiles[1:] = np.random.default_rng(0).integers(0, 256, size=(2, side, side, 3), dtype=np.uint8)
    try:
        found: Any = run(tiles)
        again: Any = np.concatenate([run(tiles[::-1])[::-1], run(tiles[1:2])])
    except Exception:
        raise ConfigurationError(
            "SB-119", f"The encoder {encoder.name} fails on a tile of {encoder.tile_px} pixels"
        ) from None
    if found.shape != (3, encoder.own_dim):
        raise _wrong_size(encoder, found.shape[-1] if found.ndim == 2 else found.shape)
    if not bool(np.isfinite(found).all()):
        raise ConfigurationError(
            "SB-119", f"The encoder {encoder.name} gives numbers that are not finite"
        )
    apart = np.abs(again - np.concatenate([found, found[1:2]])).max()
    if not apart <= SAME * max(float(np.abs(found).max()), SAME):
        raise ConfigurationError(
            "SB-119",
            f"The encoder {encoder.name} gives the same tile other features a second time, or beside other tiles",
            "It must have no chance, no memory and no statistics over a batch: export it for inference",
        )


def _wrong_size(encoder: Encoder, found: object) -> ConfigurationError:
    return ConfigurationError(
        "SB-119",
        f"The encoder {encoder.name} gives {found} features of a tile, and the contract says {encoder.own_dim}",
        "Correct encoder.dim of the contract; with surroundings it is three times as much",
    )


def _not_loaded(encoder: Encoder, kind: str) -> ConfigurationError:
    return ConfigurationError(
        "SB-119",
        f"The encoder {encoder.name} cannot be loaded as {kind}",
        "Compare encoder.kind with the file",
    )
