"""Fixtures for the verifier: a builder of artefacts, and one valid artefact."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load_builder() -> ModuleType:
    # With --import-mode=importlib a test folder is not on sys.path, so this names the file.
    name = "solblom_verify_artefact_builder"
    path = Path(__file__).with_name("artefact_builder.py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_BUILDER = _load_builder()


@pytest.fixture
def builder() -> Any:
    return _BUILDER.ArtefactBuilder()


@pytest.fixture
def artefact(builder: Any, tmp_path: Path) -> Path:
    return builder.write(tmp_path)
