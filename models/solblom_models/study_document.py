"""From a study file to the document that is signed: the noise multiplier follows from the promise."""

from solblom_models.accountant import calibrate_noise
from solblom_models.task import find_task
from solblom_protocol.contract import Contract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.study import Study, StudyDocument


def resolve(study: Study, contract: Contract) -> StudyDocument:
    """Return the document to sign: the smallest noise, to four decimals, that keeps the study's epsilon.

    Raises:
        ConfigurationError: SB-105 no noise is enough; SB-106 or SB-107 the task refuses the study.
    """
    noise: str | None = None
    if study.privacy.epsilon != "off":
        try:
            noise = calibrate_noise(
                study.privacy.epsilon,
                study.privacy.delta,
                sampling_rate=study.privacy.sampling_rate,
                steps=study.training.rounds * study.training.local_steps,
            )
        except ValueError as error:
            raise ConfigurationError(
                "SB-105", f"The privacy target cannot be met: {error}"
            ) from None
    document = StudyDocument(
        schema="solblom.study/1", study=study, contract=contract, noise_multiplier=noise
    )
    find_task(study.task.name).check(document)
    return document
