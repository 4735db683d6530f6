"""One spelling for each patient's id, in tables, consents and splits alike.

The same name can be typed in several ways that look the same: å as one character or as a and a ring, a hyphen
that a word processor made unbreakable, a byte-order mark where two files were joined. Compared byte by byte they
are different patients, and a withdrawal under one spelling would miss the other.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from solblom_protocol.errors import DataError
from solblom_verify.wording import counted

_DASHES = re.compile("[\u2010-\u2015\u2212]")
# Letters and marks by their category, and shown as nothing all the same (Unicode, Default_Ignorable_Code_Point).
_SHOWN_AS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_CONTROLS = ("Cc", "Cf")  # Unicode's categories: control, and format (marks of order, joiners)
_ROUNDED = re.compile(r"[0-9]([.,][0-9]+)?[eE]\+[0-9]+")
_NO_SIGNS = str.maketrans("", "", string.punctuation + " ")
SEVERAL_FAMILIES = "patient of several families, one taken"
"""What a reading may note: such data have no clear families, so a study whose unit is the family refuses them."""


def patient_id(text: str) -> str:
    """Return an id in its one spelling.

    Unicode form NFKC, without characters that cannot be seen, one hyphen for all dashes, one space for any white
    space, and none at either end.
    """
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()  # the common case: nothing to fold
    # Twice: what NFKC takes apart may hold a sign that the first pass could not see.
    return _folded(_folded(text))


def _folded(text: str) -> str:
    seen = "".join(
        char for char in text if char.isspace() or unicodedata.category(char) not in _CONTROLS
    )
    plain = unicodedata.normalize("NFKC", _SHOWN_AS_NOTHING.sub("", seen))
    return " ".join(_DASHES.sub("-", plain).split())


def loose_id(text: str) -> str:
    """Return what a spreadsheet leaves of an id: two ids of which the same is left may be one patient's.

    Leading zeros, the `.0` of a decimal, signs and spaces do not count, nor do capitals.
    """
    rest = text.casefold().removesuffix(".0").translate(_NO_SIGNS)
    return rest.lstrip("0") or rest


def is_rounded(text: str) -> bool:
    """Tell whether an id is a number that a spreadsheet rounded, such as 1.01901E+10: nobody knows whose it was."""
    return "+" in text and _ROUNDED.fullmatch(text) is not None


def check_ids(ids: Sequence[str]) -> None:
    """Refuse empty, rounded and repeated patient ids; says how many, never which.

    Raises:
        DataError: SB-302, or SB-304 where ids are the same in their one spelling.
    """
    spelt = [patient_id(text) for text in ids]
    empty = sum(1 for value in spelt if not value)
    if empty:
        raise DataError("SB-302", f"{counted(empty, 'row has', 'rows have')} no patient id")
    rounded = sum(1 for value in spelt if is_rounded(value))
    if rounded:
        raise DataError(
            "SB-302",
            f"{counted(rounded, 'patient id was', 'patient ids were')} rounded by a spreadsheet, as in 1.0E+10",
            "Export the table anew, with the column of ids as text",
        )
    doubles = sum(1 for count in Counter(spelt).values() if count > 1)
    if doubles:
        raise DataError(
            "SB-304", f"{counted(doubles, 'patient has', 'patients have')} more than one row"
        )
