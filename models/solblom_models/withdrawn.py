"""What is said whenever a withdrawn model is used all the same: to replay or compare it, or if somebody insists."""

from solblom_protocol.console import say
from solblom_verify.artefact import Verdict
from solblom_verify.history import WITHDRAWN


def say_if_withdrawn(verdict: Verdict) -> None:
    """Say on stderr that a model was withdrawn, by whom and why, as far as its log tells."""
    if verdict.status != WITHDRAWN:
        return
    ref = f"{verdict.name}@{verdict.version}"
    decided = [entry for entry in verdict.statuses if entry.status == WITHDRAWN]
    if decided:
        last = decided[-1]
        say(f"WITHDRAWN  {ref}, {last.time:%Y-%m-%d} by {last.signer}: {last.reason}")
    else:
        say(f"WITHDRAWN  {ref}: `solblom model status {ref}` says why")
