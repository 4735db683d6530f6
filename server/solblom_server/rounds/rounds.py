"""The round loop: open, ask, fold, close. Each step stands in the database before it happens.

Whatever dies, the run resumes at its open round.
"""

import numpy as np
from numpy.typing import NDArray

from solblom_models.aggregation.opened_sum import mean_update
from solblom_models.aggregation.optimisers import ServerState, step
from solblom_models.aggregation.robust import round_of
from solblom_models.flat import flatten, layout_of
from solblom_models.task import find_task
from solblom_protocol.messages.layout import Layout, pack, unpack
from solblom_protocol.messages.message import timestamp
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.run_sums import tolerates_dropouts
from solblom_server.log.entries import round_closed
from solblom_server.rounds.checkpoints import read_checkpoint, write_checkpoint
from solblom_server.rounds.dropout_sum import DropoutSum
from solblom_server.rounds.exchange import (
    Question,
    RunContext,
    check_quorum,
    close_exchange,
    collect,
)
from solblom_server.rounds.kept_updates import KeptUpdates
from solblom_server.rounds.secure_sum import ask_for_sum, collect_mask_keys, masked_sum
from solblom_server.transports.transports import PROGRESS
from solblom_verify.canonical import digest
from solblom_verify.wording import counted


def initial_model(document: StudyDocument) -> tuple[bytes, Layout]:
    """Return the weights before round 1 and their layout, from the public seed."""
    task = find_task(document.study.task.name)
    model = task.build(document)
    layout = layout_of(model, local=task.local_parameters(document))
    return flatten(model, layout), layout


def run_rounds(context: RunContext) -> ServerState:
    """Run all rounds that are not closed yet and return the final state.

    Raises:
        RunError: SB-501, fewer results than the quorum; the run can be resumed.
    """
    state, start = _resume(context)
    keys = collect_mask_keys(context)
    rounds = context.document.study.training.rounds
    for number in range(start, rounds + 1):
        model = pack([state.model])
        context.database.open_round(context.run, number, digest(model), now=context.clock())
        mean, count = _exchange_round(context, number, model, keys)
        training = context.document.study.training
        state = step(state, mean, training, round_number=number)
        write_checkpoint(context.folder / "checkpoints", number, state)
        result = digest(pack([state.model]))
        closed = context.clock()
        context.database.close_round(context.run, number, result, now=closed)
        context.log.append(
            round_closed(
                context.run, number, base=digest(model), result=result, time=timestamp(closed)
            )
        )
        PROGRESS.get()(number, rounds, f"{count} of {counted(len(context.nodes), 'hospital')}")
    return state


def _resume(context: RunContext) -> tuple[ServerState, int]:
    closed = [r.round for r in context.database.rounds(context.run) if r.status == "closed"]
    folder = context.folder / "checkpoints"
    if closed:
        return read_checkpoint(folder, closed[-1]), closed[-1] + 1
    initial, layout = initial_model(context.document)
    state = ServerState.initial(unpack(initial, layout).copy())
    _kept(context).keep_initial(initial)
    write_checkpoint(folder, 0, state)
    return state, 1


def _kept(context: RunContext) -> KeptUpdates:
    return KeptUpdates(context.folder, keeps=context.document.keeps_updates)


def _exchange_round(
    context: RunContext, number: int, model: bytes, keys: tuple[str, ...]
) -> tuple[NDArray[np.float64], int]:
    """Return what all updates of one round move the model by, and how many they are.

    Raises:
        RunError: SB-501.
    """
    plan, event, kept = context.document.secure_sum, context.document.round_event, _kept(context)
    if plan is not None:
        closed = masked_sum(context.document, context.layout.size)
        question = Question("train", number, model, context.layout, event, closed.add, keys)
        if tolerates_dropouts(context.document):
            found = DropoutSum(context, question, context.layout.size).open()
            count = len(found.survivors)
            kept.keep_sum(number, found.values)
            return mean_update(context.document, found.values, hospitals=count), count
        count = len(context.nodes)
        opened = ask_for_sum(context, question, closed)
        kept.keep_sum(number, opened)
        return mean_update(context.document, opened, hospitals=count), count
    fold = round_of(context.document.study.training, context.layout.size)

    def take(site: str, update: bytes | memoryview) -> None:
        fold.add(unpack(update, context.layout).astype(np.float32))
        kept.keep_update(number, site, update)

    question = Question("train", number, model, context.layout, event, take)
    collection = collect(context, question, sorted(context.nodes))
    check_quorum(context, question, collection)
    close_exchange(context, collection)
    # Who answered before a crash and not again is not in this fold: neither receipt nor update of it counts.
    context.database.set_late(context.run, number, besides=collection.results)
    kept.close(number, collection.results)
    return fold.result(), fold.count
