"""Where a run over the network is broken on purpose: every step of "One round", both sides, before and after."""

from dataclasses import dataclass

SERVER, LINK, VAULT = "ServerApp", "link", "vault"


@dataclass(frozen=True)
class Point:
    """A fault: which process, at which call of which function, and what happens there.

    `do`: kill | cut:SECONDS | disk:SECONDS | clock:SECONDS; without a target the parts named in `part`
    are killed from outside once a round is closed.
    """

    part: str
    target: str | None
    when: str
    count: int = 1
    do: str = "kill"

    @property
    def name(self) -> str:
        """Return the point in words."""
        if self.target is None:
            return f"{self.do} {self.part} {self.when}"
        step = self.target.split(":")[1].split(".")[-1].lstrip("_")
        number = "" if self.count == 1 else f" no. {self.count}"
        return f"{self.do} {self.part} {self.when} {step}{number}"


def _both(part: str, targets: list[str], *, count: int = 1, do: str = "kill") -> list[Point]:
    return [
        Point(part, target, when, count, do) for target in targets for when in ("before", "after")
    ]


_DATABASE = "solblom_server.database:Database"
_COORDINATOR = [
    *(f"{_DATABASE}.{step}" for step in ("open_round", "add_order", "add_charge", "add_reply")),
    "solblom_server.transports.grids.fleet:FleetGrid.push_messages",
    "solblom_server.rounds.rounds:write_checkpoint",
    f"{_DATABASE}.close_round",
    "solblom_server.registry.release:write_artefact",
    f"{_DATABASE}.set_model_digest",
]
_FLEET = "solblom_client.link.fleet:FleetConnection"
_LINK = [
    *(f"{_FLEET}.{step}" for step in ("fab_hash", "fetch", "confirm", "send")),
    "solblom_client.link.vault_client:VaultClient.process",
]
_VAULT = [
    "solblom_client.vault:Vault.process",
    "solblom_client.vault:Vault._pass_gate",
    "solblom_client.budget.ledger:Ledger.reserve",
    "solblom_client.vault:Vault._join",
    "solblom_client.answers:train",
    "solblom_client.budget.ledger:Ledger.mark_spent",
    "solblom_client.vault:Vault._release",
]

POINTS: tuple[Point, ...] = (
    *_both(SERVER, _COORDINATOR),
    *_both(LINK, _LINK),
    *_both(LINK, [f"{_FLEET}._push_object"], count=2),
    *_both(VAULT, _VAULT),
    *(
        Point(part, None, "after round 1")
        for part in ("superlink", "front", "service", "vault", "link", "node")
    ),
    *(Point(part, None, "after round 2") for part in ("superlink", "service")),
    *_both(LINK, [f"{_FLEET}.{step}" for step in ("fetch", "send")], do="cut:3"),
    *_both(LINK, [f"{_FLEET}._push_object"], count=2, do="cut:3"),
    Point(LINK, f"{_FLEET}.send", "before", 2, "cut:20"),
    Point(VAULT, "solblom_client.budget.ledger:Ledger.reserve", "before", 2, "disk:4"),
    Point(VAULT, "solblom_client.budget.ledger:Ledger.mark_spent", "before", 2, "disk:4"),
    Point(SERVER, f"{_DATABASE}.add_reply", "before", 2, "disk:4"),
    Point(SERVER, "solblom_server.rounds.rounds:write_checkpoint", "before", 2, "disk:4"),
    Point(VAULT, "solblom_client.vault:Vault.process", "before", 2, "clock:86400"),
    Point(VAULT, "solblom_client.vault:Vault.process", "before", 2, "clock:-86400"),
)
