"""What a node takes from Flower: objects that are what their names say, no more and no larger than an order can be."""

import json
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import (
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.task_identity import TaskIdentity

from solblom_client.link import fleet
from solblom_client.link.errors import LinkError
from solblom_client.link.fleet import FleetConnection, FleetSettings

KIB = 1024


@dataclass
class Objects:
    """The calls of Flower's client that a fetch needs, over objects in memory."""

    contents: dict[str, bytes] = field(default_factory=dict)
    available: bool = True
    asked: list[str] = field(default_factory=list)

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802 - Flower's
        self.asked.append(request.object_id)
        found = request.object_id in self.contents
        return PullObjectResponse(
            object_found=found,
            object_available=found and self.available,
            object_content=self.contents.get(request.object_id, b""),
        )

    def PushMessages(self, request: PushMessagesRequest) -> PushMessagesResponse:  # noqa: N802 - Flower's
        """Want everything but the last part, named in no order, as Flower names it."""
        names = {part.object_id for part in iterate_object_tree(request.message_object_trees[0])}
        return PushMessagesResponse(objects_to_push=sorted(names)[:-1], session_id="1")

    def PushObject(self, request: PushObjectRequest) -> PushObjectResponse:  # noqa: N802 - Flower's
        self.asked.append(request.object_id)
        self.contents[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

    def close(self) -> None:
        pass

    def add(self, kind: str, children: list[str], body: bytes) -> str:
        """Add an object as Flower writes it, whatever it says; return its name."""
        content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body
        self.contents[get_object_id(content)] = content
        return get_object_id(content)


def connection(objects: Objects) -> FleetConnection:
    key = ec.generate_private_key(ec.SECP256R1())
    made = FleetConnection(FleetSettings("https://fl.example.no", None, None, key))
    made.close()
    made._client = objects  # type: ignore[assignment]
    return made


def message(content: RecordDict | Error) -> Message:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    asked = Message(RecordDict(), 2, "train", group_id="1")
    return Message(content, reply_to=asked)


def sealed(data: bytes) -> Message:
    array = Array(dtype="uint8", shape=(len(data),), stype="solblom.sealed", data=data)
    return message(RecordDict({"solblom": ArrayRecord({"sealed": array})}))


def stored(sent: Message) -> tuple[Objects, ObjectTree]:
    nested = get_all_nested_objects(sent)
    return Objects({name: item.deflate() for name, item in nested.items()}), get_object_tree(sent)


def refused(objects: Objects, tree: ObjectTree) -> LinkError:
    with pytest.raises(LinkError) as caught:
        connection(objects).fetch(1, tree)
    return caught.value


def array_of(objects: Objects, chunk: bytes, times: int) -> str:
    """Add an array that names one chunk so many times."""
    child = objects.add("ArrayChunk", [], chunk)
    body = {"dtype": "uint8", "shape": [1], "stype": "x", "arraychunk_ids": [0] * times}
    return objects.add("Array", [child], json.dumps(body).encode())


def tree_of(objects: Objects, root: str) -> ObjectTree:
    rest = [ObjectTree(object_id=name) for name in objects.contents if name != root]
    return ObjectTree(object_id=root, children=rest)


def test_a_message_arrives_as_it_was_sent() -> None:
    objects, tree = stored(sealed(b"abc" * 1000))
    found = connection(objects).fetch(1, tree)
    assert found.content.array_records["solblom"]["sealed"].data == b"abc" * 1000
    assert found.metadata.message_id == tree.object_id


def test_parts_are_sent_in_the_order_in_which_flower_pulls_them_and_only_those_it_wants() -> None:
    """The coordinator pulls one after another: in another order each would be waited for in turn."""
    objects, reply = Objects(), sealed(b"abc" * 4_000_000)
    _, tree = stored(reply)
    assert connection(objects).send(reply, seconds=0.0)
    pulled = [part.object_id for part in iterate_object_tree(tree)]
    assert len(pulled) > 5
    assert objects.asked == [name for name in pulled if name != max(pulled)]
    assert all(get_object_id(content) == name for name, content in objects.contents.items())


def test_a_changed_byte_in_any_part_is_seen() -> None:
    objects, tree = stored(sealed(b"abc" * 1000))
    for name, content in list(objects.contents.items()):
        for place in (0, len(content) // 2, len(content) - 1):
            harmed = bytearray(content)
            harmed[place] ^= 1
            objects.contents[name] = bytes(harmed)
            assert refused(objects, tree).code == "SB-627"
        objects.contents[name] = content
    assert connection(objects).fetch(1, tree).has_content()


def test_a_part_that_is_cut_or_another_one_is_seen() -> None:
    objects, tree = stored(sealed(b"abc" * 1000))
    names = list(objects.contents)
    whole = dict(objects.contents)
    objects.contents[names[0]] = whole[names[0]][:-1]
    assert refused(objects, tree).code == "SB-627"
    objects.contents[names[0]] = whole[names[1]]
    assert refused(objects, tree).code == "SB-627"


def test_a_part_that_is_gone_and_one_that_is_not_there_yet_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects, tree = stored(sealed(b"abc"))
    objects.available = False
    monkeypatch.setattr(fleet, "UPLOAD_SECONDS", 0.1)
    assert refused(objects, tree).code == "SB-620"  # tried again
    objects.contents.clear()
    assert refused(objects, tree).code == "SB-629"  # given up


def test_a_message_of_too_many_parts_is_refused_before_any_is_pulled() -> None:
    objects = Objects()
    children = [ObjectTree(object_id=str(number)) for number in range(fleet.MAX_OBJECTS)]
    found = refused(objects, ObjectTree(object_id="root", children=children))
    assert (found.code, str(fleet.MAX_OBJECTS) in found.message) == ("SB-627", True)
    assert objects.asked == []


@pytest.fixture
def small_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let orders have 64 KiB, so that what is too large fits into a test."""
    monkeypatch.setattr(fleet, "MAX_SEALED_BYTES", 64 * KIB)
    monkeypatch.setattr(fleet, "FRAME_BYTES", 0)
    monkeypatch.setattr(fleet, "MAX_OBJECTS", 50)


@pytest.mark.usefixtures("small_orders")
def test_parts_that_are_together_too_large_are_not_pulled_to_the_end() -> None:
    objects = Objects()
    for number in range(10):
        objects.add("ArrayChunk", [], bytes([number]) * 32 * KIB)
    root = objects.add("ArrayRecord", [], b"{}")
    assert refused(objects, tree_of(objects, root)).code == "SB-627"
    assert len(objects.asked) <= 3


@pytest.mark.usefixtures("small_orders")
def test_an_array_that_grows_when_it_is_put_together_is_refused() -> None:
    """One chunk, named often: 1 KiB on the wire would be 1 MiB in memory, or as much as the sender likes."""
    objects = Objects()
    root = array_of(objects, b"x" * KIB, 1000)
    found = refused(objects, tree_of(objects, root))
    assert (found.code, "grow" in found.message) == ("SB-627", True)


@pytest.mark.usefixtures("small_orders")
def test_many_arrays_over_one_chunk_are_counted_together() -> None:
    objects = Objects()
    for times in range(10, 30):
        root = array_of(objects, b"x" * KIB, times)
    found = refused(objects, tree_of(objects, root))
    assert (found.code, "grow" in found.message) == ("SB-627", True)


BODIES = [
    b"",
    b"{}",
    b"[]",
    b"\xff",
    b'{"arraychunk_ids": "0"}',
    b'{"arraychunk_ids": [7]}',
    b'{"arraychunk_ids": [-9]}',
    b'{"arraychunk_ids": 0}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", BODIES)
def test_an_array_that_makes_no_sense_is_refused(body: bytes) -> None:
    objects = Objects()
    child = objects.add("ArrayChunk", [], b"x")
    root = objects.add("Array", [child], body)
    assert refused(objects, tree_of(objects, root)).code == "SB-627"


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"Message", b"Message  x\x00", b"Nothing  0\x00", b"\xff\xff \x00"]
)
def test_bytes_that_are_no_object_are_refused(content: bytes) -> None:
    name = get_object_id(content)
    assert refused(Objects({name: content}), ObjectTree(object_id=name)).code == "SB-627"


def test_an_object_that_is_no_message_is_refused() -> None:
    record = RecordDict({"solblom": ConfigRecord({"x": 1})})
    objects = Objects({n: i.deflate() for n, i in get_all_nested_objects(record).items()})
    found = refused(objects, get_object_tree(record))
    assert (found.code, found.message) == ("SB-627", "What arrived is no message")


def test_a_message_that_carries_an_error_is_read_as_one() -> None:
    objects, tree = stored(message(Error(code=0, reason="boo")))
    assert connection(objects).fetch(1, tree).has_error()
