"""One spelling for each patient's id, in tables, consents and splits alike.

The same name can be typed in two ways that look the same: å as one character or as a and a ring.
Compared byte by byte they are two patients, and a withdrawal under one spelling would miss the
other.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

from solblom_protocol.errors import DataError
from solblom_verify.wording import counted


def patient_id(text: str) -> str:
    """Return an id in its one spelling: Unicode form NFC, no space at either end."""
    return unicodedata.normalize("NFC", text).strip()


def check_ids(ids: Sequence[str]) -> None:
    """Refuse empty and repeated patient ids; says how many, never which.

    Raises:
        DataError: SB-302, or SB-304 where ids are the same in their one spelling.
    """
    spelt = [patient_id(text) for text in ids]
    empty = sum(1 for value in spelt if not value)
    if empty:
        raise DataError("SB-302", f"{counted(empty, 'row has', 'rows have')} no patient id")
    doubles = sum(1 for count in Counter(spelt).values() if count > 1)
    if doubles:
        raise DataError(
            "SB-304", f"{counted(doubles, 'patient has', 'patients have')} more than one row"
        )
