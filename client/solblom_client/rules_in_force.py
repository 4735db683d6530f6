"""The rules with which a vault was opened, compared with those on disk: the hospital's word is the newest one.

A vault reads node.toml and the coordinator's key once. Whoever tightens a rule, or leaves the federation, must not
find later that a vault went on by the old ones; so what stands there is looked at before every order, and again
before an answer leaves. Bytes are compared, never a file's time or size.
"""

from dataclasses import dataclass, field

from solblom_client.budget.ledger import STATE_FILE
from solblom_client.keys import read_node_keys
from solblom_client.policy import NodeConfig, load_node_config
from solblom_client.service.opening_hours import WaitingError
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.public_keys import PublicKeys


@dataclass(frozen=True)
class RulesInForce:
    """What a vault was opened with.

    Attributes:
        config: node.toml as it was read.
        key: the file of the pinned coordinator's keys, as it was read.
        coordinator: what those bytes say; read once, so what is compared is what is trusted.
    """

    config: NodeConfig
    key: bytes = field(repr=False)
    coordinator: PublicKeys

    @classmethod
    def of(cls, config: NodeConfig) -> "RulesInForce":
        """Return the rules of a node that is being opened.

        Raises:
            ConfigurationError: SB-109, the coordinator's key is not there, or no key.
        """
        path = config.path(config.coordinator.key)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError("SB-109", f"{path} cannot be read: {error.strerror}") from None
        return cls(config, data, PublicKeys.of(data, source=path))

    @property
    def hold(self) -> bool:
        """Whether they are those that stand on disk now; what cannot be read is another one."""
        config = self.config
        try:
            if config.path(config.coordinator.key).read_bytes() != self.key:
                return False
            return config.file is None or config.file.read_bytes() == config.text
        except OSError:
            return False

    @property
    def others_are_ready(self) -> bool:
        """Whether other rules stand there with which a vault could be opened, whole and without a fault.

        A folder of state that is not there is a fault: the vault stays, and answers nothing, until it is.
        """
        if self.hold or self.config.file is None:
            return False
        try:
            config = load_node_config(self.config.file)
            PublicKeys.read(config.path(config.coordinator.key))
            read_node_keys(config.state)
            return (config.state / STATE_FILE).is_file()
        except (ConfigurationError, OSError):
            return False

    def check(self) -> None:
        """Answer nothing by rules that the hospital has changed.

        Raises:
            WaitingError: SB-219.
        """
        if not self.hold:
            raise WaitingError(
                "node.toml or the coordinator's key has changed since the vault was opened; it is opened anew "
                "once both can be read"
            )
