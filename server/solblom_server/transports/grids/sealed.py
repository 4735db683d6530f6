"""What a Flower message of Solblom carries: sealed bytes, and nothing else."""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from solblom_protocol.messages.flower import BODY, RECORD, SEALED, SMALL_BYTES
from solblom_protocol.messages.seal import split_body


def sealed_content(sealed: bytes) -> RecordDict:
    """Return sealed bytes as the content of a Flower message."""
    return RecordDict({RECORD: _array_record(sealed)})


def wire_content(sealed: bytes) -> RecordDict:
    """Return the content of an order through a SuperLink: small ones in fewer objects, each a request.

    A large one's body is a record of its own: Flower names objects by their content, so a model that
    goes to many nodes is uploaded and stored once.
    """
    if len(sealed) <= SMALL_BYTES:
        return RecordDict({RECORD: ConfigRecord({SEALED: sealed})})
    head, body = split_body(sealed)
    return shared_content(head, shared_body(body))


def shared_body(body: bytes | memoryview) -> ArrayRecord:
    """Return a body as a record that the orders of a round share: Flower cuts and names it once."""
    return _array_record(bytes(body))


def shared_content(head: bytes, body: ArrayRecord) -> RecordDict:
    """Return the content of an order whose body several orders share."""
    return RecordDict({RECORD: ConfigRecord({SEALED: head}), BODY: body})


def sealed_parts(content: RecordDict) -> tuple[bytes, ...]:
    """Return the sealed bytes in a message's content in the pieces in which they are there; none: ()."""
    record, body = content.get(RECORD), content.get(BODY)
    if isinstance(record, ConfigRecord) and isinstance(body, ArrayRecord) and SEALED in body:
        head = record.get(SEALED)
        return (head, bytes(body[SEALED].data)) if isinstance(head, bytes) else ()
    whole = _whole_bytes(content)
    return () if whole is None else (whole,)


def _array_record(data: bytes) -> ArrayRecord:
    array = Array(dtype="uint8", shape=(len(data),), stype="solblom.sealed", data=data)
    return ArrayRecord({SEALED: array})


def sealed_bytes(content: RecordDict) -> bytes | None:
    """Return the sealed bytes in a message's content in one piece; None where there are none."""
    parts = sealed_parts(content)
    return parts[0] if len(parts) == 1 else b"".join(parts) or None


def _whole_bytes(content: RecordDict) -> bytes | None:
    """Return the bytes of a content without a body.

    Not through `content.array_records`: that view and its own check refer to each other, so it
    would hold the bytes until Python's cyclic collector comes by, one model a message.
    """
    record = content.get(RECORD)
    if isinstance(record, ArrayRecord) and SEALED in record:
        return bytes(record[SEALED].data)
    value = record.get(SEALED) if isinstance(record, ConfigRecord) else None
    return value if isinstance(value, bytes) else None
