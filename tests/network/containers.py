"""A node's container units, started as Podman's generator would start them: each key of [Container] is an option.

Source of the table: podman-systemd.unit(5), "Container units". A key that stands here for nothing fails the test that
reads it.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

# A machine may need more words, such as another runtime or lower limits.
PODMAN = shlex.split(os.environ.get("SOLBLOM_TEST_PODMAN", "podman"))
MORE = shlex.split(os.environ.get("SOLBLOM_TEST_PODMAN_RUN", ""))
_OPTIONS = {
    "ContainerName": "--name",
    "DropCapability": "--cap-drop",
    "Environment": "--env",
    "Network": "--network",
    "Pull": "--pull",
    "Tmpfs": "--tmpfs",
    "Volume": "--volume",
}
_SWITCHES = {"ReadOnly": "--read-only", "NoNewPrivileges": "--security-opt=no-new-privileges"}


@dataclass(frozen=True)
class Unit:
    """A quadlet: section → key → values, in order."""

    sections: Mapping[str, Mapping[str, list[str]]]

    @classmethod
    def read(cls, text: str) -> "Unit":
        sections: dict[str, dict[str, list[str]]] = {}
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            if line.startswith("["):
                keys = sections.setdefault(line.strip("[]"), {})
            else:
                key, _, value = line.partition("=")
                keys.setdefault(key, []).append(value)
        return cls(sections)

    def of(self, key: str) -> list[str]:
        return self.sections["Container"].get(key, [])

    def options(self, **instead: str) -> list[str]:
        """Return the options of `podman run`; `instead` replaces the one value of a key."""
        words: list[str] = []
        for key, values in self.sections["Container"].items():
            for value in [instead[key]] if key in instead else values:
                words += _option(key, value)
        return [*words, "--user", f"{self.of('User')[0]}:{self.of('Group')[0]}"]

    @property
    def command(self) -> list[str]:
        """The image, and what runs in it."""
        return [self.of("Image")[0], *shlex.split(self.of("Exec")[0])]


def _option(key: str, value: str) -> list[str]:
    if key in ("Image", "Exec", "User", "Group"):
        return []
    if key == "PodmanArgs":
        return shlex.split(value)
    if key in _SWITCHES:
        if value != "true":
            raise ValueError(f"{key}={value}")
        return [_SWITCHES[key]]
    return [_OPTIONS[key], value]


def podman(*words: str, check: bool = True) -> str:
    """Run podman; return what it prints."""
    done = subprocess.run(
        [*PODMAN, *words], capture_output=True, text=True, timeout=1800, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"podman {words[0]}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def status_of(container: str) -> dict[str, str]:
    """Return /proc/1/status in a container as a table."""
    text = podman("exec", container, "cat", "/proc/1/status")
    return dict(re.findall(r"^(\w+):\t(.*)$", text, re.M))
