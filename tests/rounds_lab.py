"""Two rounds of one real hospital, as a coordinator records them."""

from lab import NOW, LabHospital
from solblom_models.artefact import RoundRecord
from solblom_protocol.messages.layout import pack, unpack
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument
from solblom_server.rounds.rounds import initial_model
from solblom_verify.canonical import digest


def two_rounds(hospital: LabHospital, study: StudyDocument) -> tuple[list[RoundRecord], bytes]:
    """Return both rounds of a study that the hospital approved, and the model after them."""
    model, layout = initial_model(study)
    rounds = []
    for number in (1, 2):
        reply = hospital.ask(hospital.order(study, array=model, round=number))
        assert isinstance(reply, Result), reply
        after = pack([unpack(model, layout) + unpack(reply.update, layout)])
        rounds.append(
            RoundRecord(
                round=number,
                base=digest(model),
                result=digest(after),
                opened=timestamp(NOW),
                closed=timestamp(NOW),
                receipts={"north": (reply.envelope, reply.receipt)},
                refusals={},
                missing=[],
            )
        )
        model = after
    return rounds, model
