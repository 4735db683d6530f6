"""A hospital's side of permits: pinned issuers, the permit beside an approval, and what was revoked.

Both are needed: the issuer's permit and the hospital's own approval, which names the permit by its
digest. Everything here is checked before a patient row is read (privacy.md rule 5), and again for every order.
"""

import datetime as dt
from pathlib import Path

from solblom_client.cohorts.cohort import Cohort, unit_count
from solblom_client.policy import NodeConfig
from solblom_client.state import VaultState
from solblom_protocol.errors import DataError, IntegrityError, RefusedError
from solblom_protocol.messages.order import OrderHeader
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.permit import (
    MAX_PERMIT_BYTES,
    SignedPermit,
    check_covers,
    check_dates,
    check_usage,
    open_permit,
)
from solblom_protocol.permits.revocations import (
    MAX_LIST_BYTES,
    SeenList,
    check_fresh,
    open_revocations,
)
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import CanonicalError, read_file

PERMIT_FILE = "permit.jws"  # beside the approval


def pinned_issuers(config: NodeConfig) -> dict[str, Issuer]:
    """Return the issuers whom this hospital trusts, by key id.

    Raises:
        ConfigurationError: SB-109.
    """
    issuers = [Issuer.read(config.path(file)) for file in config.permit.issuers]
    return {issuer.key_id: issuer for issuer in issuers}


def read_permit(config: NodeConfig, file: Path) -> SignedPermit:
    """Return the permit in a file, signed by a pinned issuer.

    Raises:
        RefusedError: SB-217.
        ConfigurationError: SB-109, an issuer's file cannot be read.
    """
    if not config.permit.issuers:
        raise RefusedError(
            "SB-217",
            "A permit counts only by an issuer whom this hospital knows, and node.toml names none",
            "Compare the issuer's fingerprint by phone, then name its file below [permit] in node.toml: issuers",
        )
    return open_permit(_read(file, "SB-217", most=MAX_PERMIT_BYTES + 1), pinned_issuers(config))


def stored_permit(config: NodeConfig, folder: Path, approved: str | None) -> SignedPermit | None:
    """Return the permit beside an approval that names it by its digest; None where it names none.

    Raises:
        RefusedError: SB-217, it is gone, was swapped, or its issuer is no longer trusted.
    """
    if approved is None:
        return None
    found = read_permit(config, folder / PERMIT_FILE)
    if found.digest != approved:
        raise RefusedError("SB-217", "The permit is not the one with which the study was approved")
    return found


def find_permit(config: NodeConfig, document: StudyDocument, *, now: dt.datetime) -> bytes | None:
    """Return the one permit in `permit.folder` that is for this study and this hospital, and has not ended.

    Raises:
        RefusedError: SB-217, there are several: a person must choose.
    """
    folder, issuers = config.path(config.permit.folder), pinned_issuers(config)
    found: list[SignedPermit] = []
    for file in sorted(folder.glob("*.jws")) if folder.is_dir() else ():
        try:
            permit = open_permit(_read(file, "SB-217", most=MAX_PERMIT_BYTES + 1), issuers)
        except RefusedError:
            continue  # another's file, or a list
        if (
            permit.permit.fl_permit.study == document.digest
            and config.node.site in permit.permit.aud
            and now.timestamp() < permit.permit.ends
        ):
            found.append(permit)
    if len({permit.digest for permit in found}) > 1:
        raise RefusedError(
            "SB-217", "Several permits are for this study", "Name one with `--permit FILE`"
        )
    return found[0].token if found else None


def check_for_approval(
    config: NodeConfig,
    state: VaultState,
    document: StudyDocument,
    permit: SignedPermit | None,
    *,
    code: str,
    now: dt.datetime,
) -> None:
    """Refuse to approve a study without the permit that it needs, before a row is read.

    Raises:
        RefusedError: SB-217 or SB-218.
    """
    if permit is None:
        _check_required(config)
        return
    check_dates(permit.permit, now=now)
    check_covers(permit.permit, document, site=config.node.site, code=code)
    check_revocation(config, state, permit, now=now)


def check_order(
    config: NodeConfig,
    state: VaultState,
    header: OrderHeader,
    document: StudyDocument,
    permit: SignedPermit | None,
    *,
    code: str,
    now: dt.datetime,
) -> None:
    """Refuse an order that the permit does not allow today; a permit that was approved is always checked.

    Raises:
        RefusedError: SB-217 or SB-218.
    """
    check_for_approval(config, state, document, permit, code=code, now=now)
    if permit is None:
        return
    rows = state.query(
        "SELECT DISTINCT run, kind, round FROM events WHERE study = ?", (header.study,)
    )
    check_usage(
        permit.permit,
        used=frozenset((str(run), int(str(n))) for run, kind, n in rows if kind == "train"),
        runs=frozenset(str(run) for run, _, _ in rows),
        now=(header.run, header.round if header.kind == "train" else 0),
    )


def check_cohort(permit: SignedPermit | None, cohort: Cohort, *, by_family: bool = False) -> None:
    """Refuse a training set below the permit's minimum, after consent; families count where they are the unit.

    It depends on patients: outside it is SB-209 like every such refusal, and it counts as one (privacy.md rule 5).

    Raises:
        DataError: SB-306.
    """
    if permit is None:
        return
    needed = permit.permit.fl_permit.limits.min_cohort
    if unit_count(cohort.training, by_family=by_family) < needed:
        raise DataError("SB-306", f"The training set is below the permit's minimum of {needed}")


def check_revocation(
    config: NodeConfig, state: VaultState, permit: SignedPermit, *, now: dt.datetime
) -> None:
    """Refuse a revoked permit, and every permit while its issuer's list proves nothing.

    A revocation is final here: a later list that leaves it out changes nothing.

    Raises:
        RefusedError: SB-218.
    """
    issuer = permit.issuer.key_id
    revoked = f"revoked/{issuer}/{permit.permit.jti}"
    if state.query("SELECT 1 FROM meta WHERE key = ?", (revoked,)):
        raise RefusedError("SB-218", "The permit was revoked")
    file = config.path(config.permit.revocations)
    lists = open_revocations(_read(file, "SB-218", most=8 * MAX_LIST_BYTES), pinned_issuers(config))
    signed = lists.get(issuer)
    if signed is None:
        raise RefusedError("SB-218", "There is no revocation list of the permit's issuer")
    if permit.permit.jti in signed.list.revoked:  # in a stale list, too
        with state.transaction():
            _note(state, revoked, signed.digest)
        raise RefusedError("SB-218", "The permit is revoked")
    seen = _seen(state, issuer)
    age = permit.permit.fl_permit.crl.max_age_seconds
    check_fresh(signed, max_age_seconds=age, now=now, seen=seen)
    if seen is None or signed.list.iat > seen.iat:
        with state.transaction():
            _note(state, f"revocations/{issuer}", f"{signed.list.iat} {signed.digest}")


def _check_required(config: NodeConfig) -> None:
    if config.permit.required:
        raise RefusedError(
            "SB-217",
            "This hospital needs a permit for every study; this one has none",
            "Approve it with `--permit FILE`, or put the permit into the folder of [permit]",
        )


def _seen(state: VaultState, issuer: str) -> SeenList | None:
    rows = state.query("SELECT value FROM meta WHERE key = ?", (f"revocations/{issuer}",))
    if not rows:
        return None
    made, _, named = str(rows[0][0]).partition(" ")
    if not made.isdigit():
        raise IntegrityError("SB-402", "The newest revocation list noted cannot be read")
    return SeenList(int(made), named)


def _note(state: VaultState, key: str, value: str) -> None:
    state.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _read(file: Path, code: str, *, most: int) -> bytes:
    what = "permit" if code == "SB-217" else "revocation list"
    try:
        return read_file(file, max_bytes=most)
    except OSError as error:
        raise RefusedError(code, f"The {what} cannot be read: {error.strerror}") from None
    except CanonicalError:
        raise RefusedError(code, f"The {what} is larger than {most} bytes") from None
