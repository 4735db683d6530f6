"""What a check found: a light, what was seen, what to do. Texts may hold counts and codes: they stay inside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from solblom_protocol.errors import SolblomError

Value = TypeVar("Value")


class Light(StrEnum):
    """All that may be said outside of a check."""

    OK = "ok"
    ATTENTION = "attention"
    STOP = "stop"


_ORDER = list(Light)


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        name: of the check; fixed, whatever the data.
        light: ok, attention or stop.
        text: what was seen.
        todo: what to do about it; empty where nothing is to be done.
        details: further lines, such as codes that no map knows.
    """

    name: str
    light: Light
    text: str
    todo: str = ""
    details: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the finding with everything, for inside."""
        return {
            "name": self.name,
            "light": str(self.light),
            "text": self.text,
            "todo": self.todo,
            "details": list(self.details),
        }


Seen = tuple[Light, str] | tuple[Light, str, str] | tuple[Light, str, str, tuple[str, ...]]
"""What a check returns: light, text, what to do, details."""


def worst(findings: Sequence[Finding]) -> Light:
    """Return the gravest light of all."""
    return max((finding.light for finding in findings), key=_ORDER.index, default=Light.OK)


@dataclass
class Checklist:
    """Runs checks in the order of their names; each name gets one finding, whatever happens.

    A check that fails never ends the list: the next may still say something. One that needs what an earlier
    check did not give is not looked at.
    """

    names: tuple[str, ...]
    found: dict[str, Finding] = field(default_factory=dict)

    def note(self, name: str, seen: Seen) -> None:
        """Note what a check saw."""
        if name not in self.names:
            raise KeyError(name)  # the names are what leaves: none may come from data
        self.found[name] = Finding(name, *seen)

    def check(self, name: str, look: Callable[[], Seen]) -> None:
        """Run a check whose errors are its finding."""
        try:
            self.note(name, look())
        except SolblomError as error:
            self.note(name, (Light.STOP, error.message, error.hint))
        except OSError as error:
            why = error.strerror or type(error).__name__
            self.note(name, (Light.STOP, f"it cannot be looked at: {why}", "Check the permissions"))

    def get(self, name: str, give: Callable[[], Value]) -> Value | None:
        """Return what a step gives; its error is the finding of that name. None: it failed."""
        try:
            return give()
        except SolblomError as error:
            self.note(name, (Light.STOP, error.message, error.hint))
        except OSError as error:
            why = error.strerror or type(error).__name__
            self.note(name, (Light.STOP, f"it cannot be read: {why}", "Check the permissions"))
        return None

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding a name, in order."""
        not_seen = Light.ATTENTION, "not looked at: an earlier check says stop"
        return tuple(self.found.get(name) or Finding(name, *not_seen) for name in self.names)
