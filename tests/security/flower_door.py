"""A hospital behind Flower's door: what `solblom_client.app` answers to a message."""

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from lab import LabHospital
from solblom_client import app as app_module


def answer(hospital: LabHospital, sealed: bytes) -> Message:
    """Bring a sealed order to the hospital as Flower would; return the message that goes back."""
    try:
        return app_module.app(_message(_sealed(sealed)), _context(hospital))
    finally:
        if app_module._opened.cache_info().currsize:
            app_module.open_vault(str(hospital.folder)).close()
        app_module.forget_vaults()


def _message(content: RecordDict) -> Message:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    message = Message(content, 1, "train", group_id="1")
    message.metadata.__dict__["_message_id"] = "1"
    return message


def _sealed(data: bytes) -> RecordDict:
    array = Array(dtype="uint8", shape=(len(data),), stype="solblom.sealed", data=data)
    return RecordDict({"solblom": ArrayRecord({"sealed": array})})


def _context(hospital: LabHospital) -> Context:
    config = {"node-config": str(hospital.folder)}
    return Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={})
