"""From the opened sum of a masked round to the mean by which the model moves."""

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.checks import ROBUST
from solblom_protocol.studies.study import StudyDocument


def mean_update(
    document: StudyDocument, opened: NDArray[np.int64], *, hospitals: int
) -> NDArray[np.float64]:
    """Return what an opened sum of clipped gradients moves the model by, float64, shape (d,).

    minus learning_rate / (hospitals * expected_batch_size) * sum / 2^f: the mean over the hospitals whose
    vectors it has of what each would have sent with local noise. All divisors are public (rule 2).

    Raises:
        ConfigurationError: SB-103, the study has no secure sum, or a strategy that compares single updates.
    """
    plan, training = document.secure_sum, document.study.training
    if plan is None:
        raise ConfigurationError("SB-103", "The study has no secure sum")
    if training.strategy in ROBUST:  # refused with the study; never a mean under a robust name
        raise ConfigurationError(
            "SB-103", f"A sum cannot be opened into a {training.strategy} of its parts"
        )
    divisor = hospitals * training.common_divisor
    moved: NDArray[np.float64] = np.ldexp(opened.astype(np.float64), -plan.fractional_bits)
    return moved * (-training.learning_rate / divisor)
