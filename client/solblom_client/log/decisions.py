"""What the vault writes into the hospital's log of decisions, and asks it."""

from solblom_client.answers import Answer
from solblom_client.budget.ledger import Request
from solblom_client.log.check import is_logged
from solblom_client.log.decision import Decision, Event
from solblom_client.log.decision_log import log_place
from solblom_client.policy import NodeConfig
from solblom_client.work import Work
from solblom_protocol.errors import SolblomError
from solblom_protocol.logs.transparency import Head
from solblom_protocol.messages.order import Order
from solblom_protocol.messages.result import Receipt


def has_left(config: NodeConfig, work: str) -> bool:
    """Tell whether the log says that an answer left without anybody having to release it."""
    return is_logged(log_place(config), "released", work)


def about_order(event: Event, order: Order, *, request: str | None = None) -> Decision:
    """Return what happened to an order."""
    header = order.header
    return Decision(
        event,
        study=header.study,
        run=header.run,
        kind=header.kind,
        round=header.round,
        order=order.digest,
        request=request,
    )


def about_head(event: Event, order: Order, head: Head) -> Decision:
    """Return that a head of the coordinator's log was seen, or cosigned."""
    header = order.header
    return Decision(event, run=header.run, order=order.digest, entries=head.size, head=head.text)


def about_refusal(order: Order | None, error: Exception, outside: str) -> list[Decision]:
    """Return that an order was refused: which rule said no, and what the coordinator was told.

    Without an order nothing is known but the code: whoever sent it may be anybody.
    """
    code = error.code if isinstance(error, SolblomError) else "SB-214"
    if order is None:
        return [Decision("refused", code=code, outside=outside)]
    header = order.header
    refused = Decision(
        "refused",
        study=header.study,
        run=header.run,
        kind=header.kind,
        round=header.round,
        order=order.digest,
        code=code,
        outside=outside,
    )
    return [about_order("received", order), refused]


def about_accepted(order: Order, request: Request) -> list[Decision]:
    """Return that an order arrived and passed the gate, on a charge of before."""
    return [about_order("received", order), about_order("accepted", order, request=request.digest)]


def about_charged(order: Order, request: Request) -> list[Decision]:
    """Return that an order has a new charge, which is on disk, and passed the gate; that it arrived stands already."""
    return [
        about_order("reserved", order, request=request.digest),
        about_order("accepted", order, request=request.digest),
    ]


def about_answer(
    event: Event, work: Work, answer: Answer, receipt: Receipt, *, digest: str, to: str
) -> Decision:
    """Return that an answer left, or waits for a person; `digest` is its receipt's, `to` the coordinator's key."""
    counts = len(work.counts) // 8 + len(answer.named)
    return Decision(
        event,
        study=receipt.study,
        run=receipt.run,
        kind=receipt.kind,
        round=receipt.round,
        order=receipt.order,
        request=work.request.digest,
        work=receipt.work,
        receipt=digest,
        size=len(answer.data),
        values=work.model.layout.size if work.model and receipt.kind == "train" else counts,
        to=to,
    )
