"""Whether a reply is an answer to what was asked: by kind, run, round, site, study and order."""

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.cosignature import read_cosignature
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.result import (
    KeyReply,
    MaskReply,
    Receipt,
    Result,
    Witnessed,
    WitnessReply,
)
from solblom_protocol.sums.mask_keys import MaskKey
from solblom_server.database import ReplyRow
from solblom_server.rounds.run_context import Question, RunContext


def check_key(context: RunContext, question: Question, site: str, message: MaskKey) -> None:
    """Refuse a mask key that is not about what was asked.

    Raises:
        IntegrityError: SB-404.
    """
    if (question.kind, message.site, message.run, message.study) != (
        "keys",
        site,
        context.run,
        context.document.digest,
    ):
        raise IntegrityError("SB-404", "The mask key is not what was ordered")
    if not context.database.is_order(message.order, context.run, 1, site, kind="keys"):
        raise IntegrityError("SB-404", "The mask key answers an order that was never issued")


def check_result(context: RunContext, question: Question, site: str, receipt: Receipt) -> None:
    """Refuse a receipt that is not about what was asked.

    Raises:
        IntegrityError: SB-404.
    """
    expected = {
        "kind": question.kind,
        "site": site,
        "run": context.run,
        "round": question.number,
        "study": context.document.digest,
        "base_model": question.base_model,
        "event": None if question.event is None else question.event.to_json(),
    }
    for name, value in expected.items():
        if getattr(receipt, name) != value:
            raise IntegrityError("SB-404", f"The receipt's {name} is not what was ordered")
    if not context.database.is_order(
        receipt.order, context.run, question.number, site, kind=question.kind
    ):
        raise IntegrityError("SB-404", "The receipt answers an order that was never issued")


def take_cosignature(
    context: RunContext, question: Question, site: str, message: Witnessed
) -> None:
    """Keep a hospital's cosignature of the head that its order showed.

    Raises:
        IntegrityError: SB-404, it is about something else than was asked; SB-405, it does not hold.
    """
    if (question.kind, message.site, message.run) != ("witness", site, context.run):
        raise IntegrityError("SB-404", "The cosignature is not what was ordered")
    size = context.log.asked(message.order)
    if size is None or not context.database.is_order(
        message.order, context.run, 1, site, kind="witness"
    ):
        raise IntegrityError("SB-404", "The cosignature answers an order that was never issued")
    public, note = context.nodes[site].signing, context.log.note(size)
    found = read_cosignature(note, message.cosignature, site, public)
    context.log.add_cosignature(size, found)


def reply_row(
    context: RunContext,
    question: Question,
    site: str,
    kind: str,
    seconds: float,
    *,
    code: str | None = None,
    result: Result | KeyReply | MaskReply | WitnessReply | None = None,
) -> ReplyRow:
    """Return what the database keeps of one reply; `result` is None for a refusal and for what is no answer."""
    receipt = result if isinstance(result, Result) else None
    order = "" if receipt is None else receipt.receipt.order
    if isinstance(result, KeyReply):
        order = result.message.order
    return ReplyRow(
        round=question.number,
        asked=question.kind,
        site=site,
        order_digest=order,
        kind=kind,
        code=code,
        receipt=None if receipt is None else receipt.receipt_digest,
        envelope=None if result is None else result.envelope,
        arrived=timestamp(context.clock()),
        seconds=round(seconds, 3),
    )
