"""Set up a node: keys, an empty ledger; and see that its owner works on it. The rest of its life is in vault.py."""

import os
import pwd

from solblom_client.budget.ledger import STATE_FILE, Ledger
from solblom_client.keys import Entropy, create_node_keys, random_entropy
from solblom_client.policy import NodeConfig
from solblom_client.state import create_state
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import write_new
from solblom_protocol.keys.public_keys import PublicKeys


def create_node(config: NodeConfig, *, entropy: Entropy = random_entropy) -> PublicKeys:
    """Make keys and ledger in the node's state folder; return what the coordinator may know.

    Raises:
        ConfigurationError: SB-113 the node exists; SB-103 seeded keys outside a simulation.
    """
    if entropy is not random_entropy and not config.node.simulation:
        raise ConfigurationError("SB-103", "Keys may follow from a seed in a simulation only")
    create_state(config.state / STATE_FILE, Ledger.initial_meta(config.policy))
    public = create_node_keys(config.state, entropy=entropy).public(config.node.site)
    write_new(config.state / "node.pub", public.to_bytes(), mode=0o644)
    return public


def check_user(config: NodeConfig) -> None:
    """Refuse root where the state belongs to another user: what root writes there, that user's vault cannot open.

    Raises:
        ConfigurationError: SB-103.
    """
    if os.geteuid() != 0 or not config.state.is_dir():
        return
    owner = config.state.stat().st_uid
    if owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    raise ConfigurationError(
        "SB-103",
        f"{config.state} belongs to the user {name}: its vault could not open what root leaves there",
        f"Put before the command: sudo -u {name}",
    )
