"""What is said of every error of Solblom."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorCode:
    """A documented error: its title, exit status and the usual next step."""

    title: str
    exit_status: int
    hint: str
