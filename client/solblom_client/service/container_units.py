"""A node in containers: units for Podman, an image for Apptainer, filled with one node's paths.

Paths are the same inside a container as outside, so node.toml says the same to both. What the vault sees of the link
is an empty folder under Podman; Apptainer lays none over it, so there owner and mode keep another user out. What the
link sees is node.toml, the coordinator's certificates, its own folder and the socket.
"""

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from solblom_client.policy import NodeConfig
from solblom_client.service.units import (
    CODE_GIB,
    check_anchor,
    folder_of,
    owned_folders,
    patient_paths,
    plain,
    tmpfiles_of,
)
from solblom_protocol.errors import ConfigurationError

PODMAN_PLACES = {
    "Containerfile": "where the image is built, beside the bundle",
    "solblom-vault.container": "/etc/containers/systemd",
    "solblom-link.container": "/etc/containers/systemd",
    "solblom-node.sysusers.conf": "/etc/sysusers.d",
    "solblom-node.tmpfiles.conf": "/etc/tmpfiles.d",
}
APPTAINER_PLACES = {
    "solblom-node.def": "where the image is built, beside the bundle",
    "solblom-vault.sh": "where the image lies",
    "solblom-link.sh": "where the image lies",
}
"""Each file and where it belongs; of sysusers and tmpfiles, `solblom-node.conf` is the name there."""
IMAGE = "localhost/solblom-node"
FIRST_ID = 7301
_TMPFILES = "solblom-node.tmpfiles.conf"


@dataclass(frozen=True)
class Mount:
    """A path that a container sees, and whether it may write there."""

    path: Path
    writes: bool = False


def podman_files(
    config: NodeConfig, node_toml: Path, *, version: str, first_id: int = FIRST_ID
) -> dict[str, str]:
    """Return the text of each file of PODMAN_PLACES for one node.

    Args:
        config: the node's settings.
        node_toml: the file that they were read from.
        version: of Solblom; the image's tag.
        first_id: number of the vault's user; the next two are the link's and the group's that they share.

    Raises:
        ConfigurationError: SB-103, a path cannot stand in a unit, the vault could write where its rules are, or a
            number that is no user's.
    """
    if not 1 <= first_id <= 2**31:
        raise ConfigurationError("SB-103", f"{first_id} is no number of a user")
    node_toml = node_toml.resolve()
    check_anchor(owned_folders(config)[1], node_toml)
    vault, link = vault_mounts(config, node_toml), link_mounts(config, node_toml)
    values = _names(config, node_toml) | {
        "IMAGE": f"{IMAGE}:{version}",
        "MEMORY_GIB": str(math.ceil(config.vault.memory_gib) + CODE_GIB),
        "VAULT_ID": str(first_id),
        "LINK_ID": str(first_id + 1),
        "SOCKET_ID": str(first_id + 2),
        "VAULT_VOLUMES": "\n".join(_volume(mount) for mount in vault),
        "LINK_VOLUMES": "\n".join(_volume(mount) for mount in link),
        "LINK_MASK": _mask(owned_folders(config)[3], vault),
    }
    made = {name: _filled("podman", name, values) for name in PODMAN_PLACES if name != _TMPFILES}
    made[_TMPFILES] = tmpfiles_of(config, node_toml)
    return made


def apptainer_files(config: NodeConfig, node_toml: Path) -> dict[str, str]:
    """Return the text of each file of APPTAINER_PLACES for one node.

    Raises:
        ConfigurationError: SB-103, as for `podman_files`.
    """
    node_toml = node_toml.resolve()
    check_anchor(owned_folders(config)[1], node_toml)
    values = _names(config, node_toml) | {
        "VAULT_BINDS": "\n".join(_bind(mount) for mount in vault_mounts(config, node_toml)),
        "LINK_BINDS": "\n".join(_bind(mount) for mount in link_mounts(config, node_toml)),
    }
    return {name: _filled("apptainer", name, values) for name in APPTAINER_PLACES}


def vault_mounts(config: NodeConfig, node_toml: Path) -> tuple[Mount, ...]:
    """Return what the vault sees: rules, data and consents to read; state, anchor and socket to write."""
    state, anchor, socket, _ = owned_folders(config)
    node = node_toml.parent
    read = sorted({folder_of(path) for path in patient_paths(config)} - {node})
    inside = [Mount(node), *(Mount(path) for path in read if not path.is_relative_to(node))]
    written = dict.fromkeys((state, anchor, socket))
    return (*inside, *(Mount(path, writes=True) for path in written))


def link_mounts(config: NodeConfig, node_toml: Path) -> tuple[Mount, ...]:
    """Return what the link sees, and nothing of it but its own folder can it change."""
    _, _, socket, link = owned_folders(config)
    authority = config.coordinator.ca_file
    read = [node_toml, *([] if authority is None else [config.path(authority).resolve()]), socket]
    return (*(Mount(path) for path in read), Mount(link, writes=True))


def _names(config: NodeConfig, node_toml: Path) -> dict[str, str]:
    return {
        "SITE": config.node.site,
        "NODE_TOML": plain(node_toml),
    }


def _volume(mount: Mount) -> str:
    path = plain(mount.path)
    return f"Volume={path}:{path}:{'rw' if mount.writes else 'ro'}"


def _mask(link: Path, mounts: tuple[Mount, ...]) -> str:
    """Return the line that lays an empty folder over the link's, where the vault would see it."""
    if not any(link.is_relative_to(mount.path) for mount in mounts):
        return "# The link's folder is not there at all."
    return f"Tmpfs={plain(link)}:ro,notmpcopyup,size=4k,mode=0000"


def _bind(mount: Mount) -> str:
    path = plain(mount.path)
    if "," in path:
        raise ConfigurationError(
            "SB-103",
            f"Apptainer would read {path!r} as two paths",
            "Use folder names without a comma",
        )
    return f"    --bind {path}:{path}:{'rw' if mount.writes else 'ro'} \\"


def _filled(folder: str, name: str, values: dict[str, str]) -> str:
    text = (files("solblom_client.service") / folder / name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text
