"""What stands at the coordinator already when a model is released: earlier versions, and permits of its study.

HOME/permits/*.jws, as the issuer gave them, and HOME/permits/issuers/*, whom the coordinator's operator trusts. Both
are optional: a permit binds hospitals, and each checks its own.
"""

from dataclasses import replace
from pathlib import Path

from solblom_models.artefact import ArtefactContents, EarlierVersion
from solblom_models.references import registered
from solblom_protocol.errors import RefusedError
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.permit import MAX_PERMIT_BYTES, SignedPermit, open_permit
from solblom_verify.canonical import CanonicalError, digest, read_file

PERMITS, ISSUERS = "permits", "permits/issuers"


def with_history(home: Path, contents: ArtefactContents, *, version: int) -> ArtefactContents:
    """Return the contents with the version that they supersede and with the permits that are held for the study.

    Raises:
        ConfigurationError: SB-109, an issuer's file cannot be read.
    """
    name = contents.document.study.study.name
    return replace(
        contents,
        supersedes=earlier_version(home / "models", name, version),
        permits=tuple(
            permit
            for permit in held_permits(home)
            if permit.permit.fl_permit.study == contents.document.digest
        ),
    )


def earlier_version(models: Path, name: str, version: int) -> EarlierVersion | None:
    """Return the newest version of a name below this one, where there is one."""
    below = [path for n, v, path in registered(models) if n == name and v < version]
    if not below:
        return None
    manifest = read_file(below[-1] / "manifest.json")
    try:
        study = read_file(below[-1] / "training/study.json")
    except (OSError, CanonicalError):
        study = b""  # then what changed is not known, and the artefact says so
    return EarlierVersion(digest(manifest), manifest, study)


def held_permits(home: Path) -> list[SignedPermit]:
    """Return the permits in HOME/permits that an issuer in HOME/permits/issuers has signed; others are left out.

    Raises:
        ConfigurationError: SB-109, an issuer's file cannot be read.
    """
    files = sorted(path for path in (home / ISSUERS).glob("*") if path.is_file())
    issuers = {issuer.key_id: issuer for issuer in map(Issuer.read, files)}
    found = []
    for path in sorted((home / PERMITS).glob("*.jws")):
        try:
            found.append(open_permit(read_file(path, max_bytes=MAX_PERMIT_BYTES + 1), issuers))
        except (RefusedError, OSError, CanonicalError):
            continue  # a list of revocations, another's file, or nobody's whom the operator trusts
    return found
