"""Fixtures for the verifier: a builder of artefacts, and one valid artefact."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(module_name: str) -> ModuleType:
    # With --import-mode=importlib a test folder is not on sys.path, so this names the file.
    name = f"solblom_verify_{module_name}"
    path = Path(__file__).with_name(f"{module_name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_BUILDER = _load("artefact_builder")
_LOG_BUILDER = _load("log_builder")


@pytest.fixture
def builder() -> Any:
    return _BUILDER.ArtefactBuilder()


@pytest.fixture
def artefact(builder: Any, tmp_path: Path) -> Path:
    return builder.write(tmp_path)


@pytest.fixture
def log(builder: Any) -> Any:
    """The log of an artefact that names one; `log.write(home)` writes both."""
    return _LOG_BUILDER.LogBuilder(builder)


@pytest.fixture
def logged(log: Any, tmp_path: Path) -> Path:
    """An artefact that stands in a log."""
    return log.write(tmp_path)
