"""What is said of a withdrawn model: who withdrew it, when and why, and which version there is instead. No torch.

Who withdrew it is said only where the signature is that of a steward whom the trust file names. The reason is
somebody's text: it is quoted.
"""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from solblom_models.life_cycle import logged_decisions, stated_status
from solblom_models.references import newest_usable, registered
from solblom_protocol.console import quoted, say
from solblom_protocol.errors import RefusedError
from solblom_verify.artefact import Verdict
from solblom_verify.history import WITHDRAWN, Status
from solblom_verify.trust import HOME_MARKER, Trust

NONE_LEFT = "No other version is left to use: ask the steward"


@dataclass(frozen=True)
class Withdrawn:
    """A withdrawn version.

    Attributes:
        ref: as people write it.
        decision: the steward's, its signature checked; None where it cannot be checked.
        instead: reference and stated status of the version to use instead; None where there is none.
        home: the Solblom folder in whose registry it stands; None for a copy elsewhere.
    """

    ref: str
    decision: Status | None
    instead: tuple[str, str] | None
    home: Path | None

    @property
    def told(self) -> str:
        """Say who withdrew it, when and why."""
        if self.decision is None:
            return f"{self.ref} was withdrawn, its log says; by whom cannot be checked here"
        when, why = f"{self.decision.time:%Y-%m-%d %H:%M} UTC", quoted(self.decision.reason)
        return f"{self.ref} was withdrawn on {when} by {self.decision.signer}. Reason given: {why}"

    @property
    def next_step(self) -> str:
        """Say what to use instead, with the command to type."""
        if self.home is None:
            return "This is a copy outside a registry: ask the steward for the version that replaces it"
        place = "" if self.home == Path("solblom-demo") else f" --home {quote(str(self.home))}"
        if self.instead is None:
            why = f"`solblom model status {quote(self.ref)}{place}`"
            return f"{NONE_LEFT}. {why} has every decision"
        ref, status = self.instead
        check = f"`solblom model verify {quote(ref)}{place}`"
        return f"Use {ref} ({status}) instead: {check}, then the same command with {ref}"


def withdrawn_model(folder: Path, trust: Trust) -> Withdrawn:
    """Return what can be said of a withdrawn version; `folder` is HOME/models/ARTEFACT, or a copy elsewhere.

    Raises:
        IntegrityError: SB-410, the home's log is damaged.
    """
    decided = [entry for entry in logged_decisions(folder, trust) if entry.status == WITHDRAWN]
    models = folder.resolve().parent
    name, _, version = folder.resolve().name.rpartition("-")
    instead = home = None
    if models.name == "models" and (models.parent / HOME_MARKER).is_file():
        # As it was written, so that a command can be pasted where this one was typed.
        home = folder.parent.parent if folder.parent.name == "models" else models.parent
        usable = newest_usable([path for n, _, path in registered(models) if n == name])
        if usable is not None:
            instead = (_ref(usable), stated_status(usable))
    ref = f"{name}@{version}" if name else folder.name
    return Withdrawn(ref, decided[0] if decided else None, instead, home)


def _ref(folder: Path) -> str:
    name, _, version = folder.name.rpartition("-")
    return f"{name}@{version}"


def refuse_withdrawn(folder: Path, trust: Trust) -> RefusedError:
    """Return the refusal of a withdrawn version (SB-420): who, when, why, and what to type next."""
    found = withdrawn_model(folder, trust)
    return RefusedError("SB-420", found.told, found.next_step)


def say_if_withdrawn(verdict: Verdict, folder: Path, trust: Trust) -> None:
    """Say on stderr that a model was withdrawn, by whom and why, and what there is instead."""
    if verdict.status == WITHDRAWN:
        found = withdrawn_model(folder, trust)
        say(f"WITHDRAWN  {found.told}")
        say(f"Next: {found.next_step}")
