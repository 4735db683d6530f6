"""This node's mask key of a run: made when the run's keys are asked for, erased when the run has all it may get.

One file a run, in the approval's folder, so that it goes with the approval. Whoever has it can take
this hospital's masks off every vector of the run.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_protocol.errors import RefusedError
from solblom_protocol.keys.key_files import read_secret, write_new
from solblom_protocol.messages.order import Order
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.mask_keys import MaskKey, mask_key_text

KEY_BYTES = 32
ERASED = b"erased"


class MaskKeyFile:
    """The mask key of one run."""

    def __init__(self, approval_folder: Path, run: str) -> None:
        name = hashlib.sha256(run.encode()).hexdigest()[:32]
        self._path = approval_folder / f"mask-{name}.key"

    def create(self) -> X25519PrivateKey:
        """Return the run's key; the first call makes it.

        Raises:
            RefusedError: SB-207, it was erased: the run is over here.
        """
        if not self._path.exists():
            write_new(self._path, os.urandom(KEY_BYTES))
        return self.read()

    def read(self) -> X25519PrivateKey:
        """Return the run's key.

        Raises:
            RefusedError: SB-207, it was never asked for, or erased.
        """
        if not self._path.exists():
            raise RefusedError("SB-207", "The run's mask key was not asked for yet")
        if self._path.read_bytes() == ERASED:
            raise RefusedError("SB-207", "The run's mask key is erased: the run is over here")
        return X25519PrivateKey.from_private_bytes(read_secret(self._path, length=KEY_BYTES))

    def erase(self) -> None:
        """Overwrite the key; what stays says that it existed, so that none is made again for the run."""
        if self._path.exists():
            self._overwrite(self._path)

    def erase_others(self) -> None:
        """Overwrite the keys of the study's other runs."""
        for path in self._path.parent.glob("mask-*.key"):
            if path != self._path and path.read_bytes() != ERASED:
                self._overwrite(path)

    def _overwrite(self, path: Path) -> None:
        with path.open("r+b") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            file.write(ERASED)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def own_mask_key(order: Order, document: StudyDocument, approval_folder: Path) -> MaskKey:
    """Return this node's mask key for an order's run, ready to be signed; older runs' keys are erased.

    A run of the study that asks for keys is the newest: nothing more is masked for the others.

    Raises:
        RefusedError: SB-216, the study has no secure sum; SB-207, the run is over here.
    """
    plan, header = document.secure_sum, order.header
    if plan is None:
        raise RefusedError("SB-216", "The study has no secure sum")
    file = MaskKeyFile(approval_folder, header.run)
    key = file.create()
    file.erase_others()
    return MaskKey(
        schema="solblom.mask-key/1",
        site=header.site,
        node=header.node,
        study=header.study,
        run=header.run,
        roster=plan.roster.digest,
        order=order.digest,
        mask_key=mask_key_text(key.public_key()),
    )


def erase_when_done(
    order: Order, document: StudyDocument, approval_folder: Path, *, done: Mapping[str, int]
) -> None:
    """Erase the run's mask key once everything that the study asks of a run is answered (privacy.md rule 8).

    `done` counts the run's answered rounds and releases by kind.
    """
    asked = {"train": document.study.training.rounds}
    asked |= {"evaluate": 1} if document.evaluation_event is not None else {}
    asked |= {"describe": 1} if document.table_one_event is not None else {}
    if all(done.get(kind, 0) >= times for kind, times in asked.items()):
        MaskKeyFile(approval_folder, order.header.run).erase()
