"""The coordinator's side of a secure sum: hand the hospitals' signed keys round, add vectors up, open the sum.

It sees masked vectors, which are uniform, and the sum of all of them. One missing hospital closes the
round without a sum (the first form of privacy.md rule 8): the round stays open, may be resumed when
the hospital is back, and the others then answer with the same bytes.
"""

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.errors import ConfigurationError, IntegrityError, RefusedError, RunError
from solblom_protocol.messages.layout import Layout
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.mask_keys import open_mask_keys
from solblom_protocol.sums.pair_masks import OpenedSum
from solblom_protocol.sums.ring import Ring
from solblom_protocol.sums.run_sums import tolerates_dropouts
from solblom_server.rounds.exchange import (
    Question,
    RunContext,
    check_quorum,
    close_exchange,
    collect,
)
from solblom_verify.wording import counted


def collect_mask_keys(context: RunContext) -> tuple[str, ...]:
    """Return every hospital's signed mask key of the run, asking those that have not given theirs.

    None where no sum needs all hospitals at once.

    Raises:
        RunError: SB-501 or SB-507, a hospital gave none; IntegrityError: SB-404, a key is not its node's.
    """
    plan = context.document.secure_sum
    if plan is None or tolerates_dropouts(context.document):
        return ()
    replies = context.database.replies(context.run, asked="keys")
    found = {r.site: r.envelope for r in replies if r.kind == "result" and r.envelope is not None}

    def take(site: str, envelope: bytes | memoryview) -> None:
        found[site] = bytes(envelope)

    missing = [site for site in sorted(context.nodes) if site not in found]
    if missing:
        question = Question("keys", 1, b"", Layout(()), None, take)
        collection = collect(context, question, missing)
        collection.results |= set(found)  # also those of before a restart
        collection.done |= set(found)
        check_quorum(context, question, collection)
        close_exchange(context, collection)
    texts = tuple(found[member.site].decode() for member in plan.roster.members)
    try:
        open_mask_keys(texts, plan.roster, run=context.run, study=context.document.digest)
    except RefusedError as error:  # the hospitals would refuse it: say so before they train
        raise IntegrityError("SB-404", error.message) from None
    return texts


def masked_sum(document: StudyDocument, size: int) -> OpenedSum:
    """Return an empty sum of `size` values on the study's ring.

    Raises:
        ConfigurationError: SB-103, the study has no secure sum.
    """
    plan, table = document.secure_sum, document.study.secure_sum
    if plan is None or table is None:
        raise ConfigurationError("SB-103", "The study has no secure sum")
    return OpenedSum(Ring(table.ring_bits), size, frozenset(plan.roster.keys))


def ask_for_sum(context: RunContext, question: Question, closed: OpenedSum) -> NDArray[np.int64]:
    """Ask every hospital of the roster and return the opened sum.

    Raises:
        RunError: SB-501 or SB-507, a hospital is missing, by name; or the masks do not cancel.
    """
    collection = collect(context, question, sorted(context.nodes))
    check_quorum(context, question, collection)
    try:
        opened = closed.open()
    except IntegrityError as error:
        raise RunError(
            "SB-501", error.message, "A hospital's node does not follow the protocol"
        ) from None
    close_exchange(context, collection)
    return opened


def check_roster(document: StudyDocument, nodes: dict[str, str]) -> None:
    """Refuse to start a run whose hospitals are not exactly the study's roster; `nodes`: key id by site.

    Raises:
        RunError: SB-501, names who is missing, or enrolled with another key.
    """
    from solblom_verify.envelope import key_id

    if document.secure_sum is None:
        return
    approved = {site: key_id(key) for site, key in document.secure_sum.roster.keys.items()}
    wrong = sorted(site for site, node in approved.items() if nodes.get(site) != node)
    if wrong:
        raise RunError(
            "SB-501",
            f"The study's secure sum needs {counted(len(approved), 'hospital')}; missing, or enrolled "
            f"with another key: {', '.join(wrong)}",
            "Enrol them, or sign a study with the present roster: `solblom coordinator roster`",
        )
