"""After the rounds and releases: every hospital of the run is asked to cosign the head of the coordinator's log.

No patient data is touched and nothing is charged. Whoever does not answer within a short while leaves a checkpoint with
fewer cosignatures; `solblom coordinator cosign` asks again, and the model needs no more for it than new files in log/.
"""

from solblom_protocol.messages.layout import Layout
from solblom_server.rounds.exchange import Question, RunContext, collect

WITNESS_SECONDS = 30.0
"""How long a run waits for hospitals that answered its last round; for others it does not wait at all."""
PASSES = 2
"""A hospital that was shown an older head and did not answer it is asked for that one first, then for the newest."""


def ask_witnesses(context: RunContext, *, seconds: float = WITNESS_SECONDS) -> dict[str, int]:
    """Ask the run's hospitals to cosign the log's newest head; return who did, and when in seconds since 1970."""
    size = context.log.size()
    expected = _answered_last(context)
    for _ in range(PASSES):
        missing = sorted(set(context.nodes) - set(context.log.cosigners(size)))
        if not missing:
            break
        question = Question("witness", 1, b"", Layout(()), None, _nothing, head=size)
        waited_for = expected & set(missing)
        collection = collect(
            context, question, missing, until=waited_for.issubset, patience=seconds
        )
        if not collection.results:
            break
    return context.log.cosigners(size)


def _answered_last(context: RunContext) -> set[str]:
    """Return the hospitals that gave an update in the last round: they are there."""
    replies = [r for r in context.database.replies(context.run) if r.kind == "result"]
    last = max((r.round for r in replies), default=0)
    return {r.site for r in replies if r.round == last}


def _nothing(site: str, data: bytes | memoryview) -> None:
    """Take nothing: a cosignature goes into the log (rounds/reply_checks.py)."""
