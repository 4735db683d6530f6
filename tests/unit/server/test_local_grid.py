"""The local grid: a real Flower Grid whose messages are copied, and whose nodes fail without a word."""

from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from solblom_server.transports.grids.local import LocalGrid, LocalNode

TRACE = "PATIENT=kari-nordmann"
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with the order's bytes and the node's own name; explode where the configuration says so."""
    if context.node_config["name"] == "exploding":
        raise RuntimeError(TRACE)
    data = message.content.array_records["solblom"]["sealed"].data
    return Message(content(data + str(context.node_config["name"]).encode()), reply_to=message)


def content(data: bytes) -> RecordDict:
    array = Array(dtype="uint8", shape=(len(data),), stype="solblom.sealed", data=data)
    return RecordDict({"solblom": ArrayRecord({"sealed": array})})


def data_of(message: Message) -> bytes:
    found: bytes = message.content.array_records["solblom"]["sealed"].data
    return found


@pytest.fixture
def grid() -> LocalGrid:
    names = ("north", "south", "exploding")
    return LocalGrid({n: LocalNode(app, {"name": name}) for n, name in enumerate(names, start=1)})


def sent(grid: LocalGrid, node: int, data: bytes = b"order-") -> Message:
    return grid.create_message(content(data), "train", node, "1")


def answered(grid: LocalGrid, *nodes: int) -> list[Message]:
    ids = list(grid.push_messages([sent(grid, node) for node in nodes]))
    return list(grid.pull_messages(ids))


def test_it_is_one_of_flowers_grids(grid: LocalGrid) -> None:
    assert isinstance(grid, Grid)
    assert list(grid.get_node_ids()) == [1, 2, 3]


def test_every_node_answers_for_itself(grid: LocalGrid) -> None:
    assert [data_of(reply) for reply in answered(grid, 2, 1)] == [b"order-south", b"order-north"]


def test_a_reply_names_the_message_that_it_answers(grid: LocalGrid) -> None:
    (message_id,) = grid.push_messages([sent(grid, 1)])
    (reply,) = grid.pull_messages([message_id])
    assert reply.metadata.reply_to_message_id == message_id


def test_a_reply_is_given_once(grid: LocalGrid) -> None:
    ids = list(grid.push_messages([sent(grid, 1)]))
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []


def test_an_unknown_message_has_no_reply(grid: LocalGrid) -> None:
    assert list(grid.pull_messages(["local-99"])) == []


def test_a_node_works_when_its_reply_is_pulled_one_at_a_time(grid: LocalGrid) -> None:
    ids = list(grid.push_messages([sent(grid, 1), sent(grid, 2)]))
    replies = iter(grid.pull_messages(ids))
    next(replies)
    assert list(grid._waiting) == [ids[1]]


def test_a_message_is_copied_when_it_is_pushed(grid: LocalGrid) -> None:
    message = sent(grid, 1)
    ids = list(grid.push_messages([message]))
    message.content.array_records["solblom"]["sealed"] = Array(
        dtype="uint8", shape=(1,), stype="solblom.sealed", data=b"x"
    )
    (reply,) = grid.pull_messages(ids)
    assert data_of(reply) == b"order-north"


def test_a_reply_is_a_copy_of_what_the_node_made() -> None:
    kept: list[Message] = []

    def keeping(message: Message, context: Context) -> Message:
        kept.append(app(message, context))
        return kept[-1]

    (reply,) = answered(LocalGrid({1: LocalNode(keeping, {"name": "north"})}), 1)
    assert reply is not kept[0]
    assert reply.content is not kept[0].content
    assert data_of(reply) == data_of(kept[0])


def test_an_exploding_node_is_an_error_without_its_text(grid: LocalGrid) -> None:
    (reply,) = answered(grid, 3)
    assert reply.has_error()
    assert TRACE not in repr(vars(reply)) + str(reply.error.reason)
    assert reply.error.reason == "The node did not answer"


def test_an_exploding_node_does_not_disturb_the_others(grid: LocalGrid) -> None:
    replies = answered(grid, 1, 3, 2)
    assert [reply.has_error() for reply in replies] == [False, True, False]


def test_a_nodes_configuration_is_its_own(grid: LocalGrid) -> None:
    def spoiling(message: Message, context: Context) -> Message:
        context.node_config["name"] = "spoilt"
        return app(message, context)

    config: dict[str, Any] = {"name": "north"}
    answered(LocalGrid({1: LocalNode(spoiling, config)}), 1)
    assert config == {"name": "north"}


def test_sending_and_receiving_at_once_gives_all_replies(grid: LocalGrid) -> None:
    replies = grid.send_and_receive([sent(grid, 1), sent(grid, 2)])
    assert len(list(replies)) == 2
