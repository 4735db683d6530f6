"""What a Flower message of Solblom carries: sealed bytes, and nothing else."""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from solblom_protocol.flower import RECORD, SEALED, SMALL_BYTES


def sealed_content(sealed: bytes) -> RecordDict:
    """Return sealed bytes as the content of a Flower message."""
    array = Array(dtype="uint8", shape=(len(sealed),), stype="solblom.sealed", data=sealed)
    return RecordDict({RECORD: ArrayRecord({SEALED: array})})


def wire_content(sealed: bytes) -> RecordDict:
    """Return the content for a message through a SuperLink: small ones in fewer objects, each a request."""
    if len(sealed) > SMALL_BYTES:
        return sealed_content(sealed)
    return RecordDict({RECORD: ConfigRecord({SEALED: sealed})})


def sealed_bytes(content: RecordDict) -> bytes | None:
    """Return the sealed bytes in a message's content; None where there are none.

    Not through `content.array_records`: that view and its own check refer to each other, so it
    would hold the bytes until Python's cyclic collector comes by, one model a message.
    """
    record = content.get(RECORD)
    if isinstance(record, ArrayRecord) and SEALED in record:
        return bytes(record[SEALED].data)
    value = record.get(SEALED) if isinstance(record, ConfigRecord) else None
    return value if isinstance(value, bytes) else None
