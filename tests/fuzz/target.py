"""What is fuzzed: a parser, well-formed messages, and what it may raise."""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from solblom_protocol.errors import SolblomError

Parse = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: as in the folder of examples.
        parse: reads bytes; may use an empty folder.
        seeds: well-formed messages.
        allowed: documented exceptions besides SolblomError.
    """

    name: str
    parse: Parse
    seeds: Callable[[], tuple[bytes, ...]]
    allowed: tuple[type[Exception], ...] = ()

    def run(self, data: bytes) -> None:
        """Parse bytes; whatever is not documented passes through to the caller."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    self.parse(data, Path(folder))
            except (SolblomError, *self.allowed):
                return


def file_in(folder: Path, name: str, data: bytes) -> Path:
    """Write a file into a target's folder; return its path."""
    path = folder / name
    path.write_bytes(data)
    return path
