"""A node under systemd: both halves as services of their own users, filled with one node's paths.

The link's user can open node.toml, the coordinator's certificates, its own folder and the vault's
socket. Owners and modes say so first (tmpfiles.d), the services' file systems once more.
"""

import math
from importlib.resources import files
from pathlib import Path

from solblom_client.policy import NodeConfig
from solblom_protocol.errors import ConfigurationError

TMPFILES = "solblom-node.tmpfiles.conf"
UNITS = ("solblom-vault.service", "solblom-link.service")
PLACES = {
    "solblom-vault.service": "/etc/systemd/system",
    "solblom-link.service": "/etc/systemd/system",
    "solblom-node.sysusers.conf": "/etc/sysusers.d",
    "solblom-node.tmpfiles.conf": "/etc/tmpfiles.d",
}
"""Each file and where it belongs; of the last two, `solblom-node.conf` is the name there."""
CODE_GIB = 1
"""What PyTorch's code takes besides `vault.memory_gib`, which limits data."""
HIDDEN = tuple(Path(text) for text in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))  # noqa: S108
"""Folders that a service does not see (ProtectHome, PrivateTmp)."""


def systemd_files(config: NodeConfig, node_toml: Path, solblom: Path) -> dict[str, str]:
    """Return the text of each file of PLACES for one node; `solblom` is the command to be started.

    Raises:
        ConfigurationError: SB-103, a path cannot stand in a unit, or the vault could write where its rules are.
    """
    values = _values(config, node_toml.resolve(), solblom.absolute())
    made = {name: _filled(name, values) for name in PLACES}
    made[TMPFILES] += given_to_the_vault(config, node_toml.resolve())
    return made


def tmpfiles_of(config: NodeConfig, node_toml: Path) -> str:
    """Return the owners of a node's files alone, which are the same in containers.

    Raises:
        ConfigurationError: SB-103, as for `systemd_files`.
    """
    values = _values(config, node_toml.resolve(), Path("/"))
    return _filled(TMPFILES, values) + given_to_the_vault(config, node_toml.resolve())


def _filled(name: str, values: dict[str, str]) -> str:
    text = (files("solblom_client.service") / "systemd" / name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def hidden_paths(config: NodeConfig, node_toml: Path, solblom: Path) -> list[Path]:
    """Return the node's paths that its services would not see, because of where they lie."""
    paths = [
        node_toml.resolve(),
        solblom.absolute(),
        *owned_folders(config),
        *patient_paths(config),
    ]
    return [path for path in paths if any(path.is_relative_to(folder) for folder in HIDDEN)]


def _values(config: NodeConfig, node_toml: Path, solblom: Path) -> dict[str, str]:
    state, anchor, socket, link = owned_folders(config)
    check_anchor(anchor, node_toml)
    node = node_toml.parent
    reads = sorted({node, *(folder_of(path) for path in patient_paths(config))})
    must_not = [state, anchor, *(_narrow(path, node) for path in patient_paths(config))]
    single = {
        "SITE": config.node.site,
        "SOLBLOM": plain(solblom),
        "NODE": plain(node),
        "NODE_TOML": plain(node_toml),
        "STATE": plain(state),
        "ANCHOR": plain(anchor),
        "SOCKET": plain(socket),
        "LINK_STATE": plain(link),
        "MEMORY_GIB": str(math.ceil(config.vault.memory_gib) + CODE_GIB),
    }
    return single | {
        "VAULT_WRITES": _list([state, anchor, socket]),
        "VAULT_READS": _list(reads, mark="-"),
        "LINK_MUST_NOT": _list(must_not, mark="-"),
    }


def owned_folders(config: NodeConfig) -> tuple[Path, Path, Path, Path]:
    """Return the folders of state, anchor, socket and link."""
    state = config.state.resolve()
    anchor = (
        state if config.node.anchor is None else config.path(config.node.anchor).resolve().parent
    )
    socket = config.path(config.vault.socket).resolve().parent
    return state, anchor, socket, config.path(config.link.state).resolve()


def patient_paths(config: NodeConfig) -> list[Path]:
    """Return what holds patients and their consents."""
    named = [config.consent.source, *(dataset.source for dataset in config.dataset)]
    named += [file for dataset in config.dataset for file in dataset.maps.values()]
    return [config.path(name).resolve() for name in named]


def given_to_the_vault(config: NodeConfig, node_toml: Path) -> str:
    """Return lines that let the vault read what lies beside node.toml; data elsewhere keep their owners."""
    inside = [path for path in patient_paths(config) if path.parent == node_toml.parent]
    return "".join(f"z {plain(path)} 0640 root solblom-vault\n" for path in inside)


def check_anchor(anchor: Path, node_toml: Path) -> None:
    """Refuse an anchor in the folder of the rules, which its user would have to write.

    Raises:
        ConfigurationError: SB-103.
    """
    if node_toml.is_relative_to(anchor):
        raise ConfigurationError(
            "SB-103",
            f"The anchor's folder {anchor} holds node.toml: a vault that writes there could change its own rules",
            'Move the anchor into a folder of its own, and set node.anchor = "anchor/ledger-anchor.json"',
        )


def _list(paths: list[Path], *, mark: str = "") -> str:
    """Return paths as one setting; the mark `-` lets a service start where one is missing."""
    return " ".join(dict.fromkeys(mark + plain(path) for path in paths))


def folder_of(path: Path) -> Path:
    """Return a folder itself, or the folder of a file."""
    return path if path.is_dir() else path.parent


def _narrow(path: Path, node: Path) -> Path:
    """Return the folder of a file, or the file itself where the folder holds more of the node."""
    folder = folder_of(path)
    return path if node.is_relative_to(folder) else folder


def plain(path: Path) -> str:
    """Return a path as it stands in a unit.

    Raises:
        ConfigurationError: SB-103, it holds a sign that systemd reads as something else.
    """
    text = str(path)
    if not all(sign.isalnum() or sign in "/._-+,=~" for sign in text):
        raise ConfigurationError(
            "SB-103",
            f"systemd would read signs of {text!r} as something else",
            "Use plain folder names",
        )
    return text
