"""permits/: the permits that the coordinator holds for the run's study, and for which hospital it holds none.

A permit is a public document: what a data access body allowed, to whom, until when. Which permit a hospital worked
under stands in its own ledger and log, not here: a receipt names none.
"""

from collections import Counter
from typing import Any

from solblom_models.artefact_files.contents import ArtefactContents
from solblom_protocol.permits.permit import SignedPermit, moment
from solblom_verify.canonical import canonical_json

INDEX = "permits/index.json"
NONE_HELD = (
    "the coordinator holds no permit of this study for this hospital; it may have one all the same"
)
NOTE = (
    "What the coordinator holds, its signature checked with a key that the coordinator pins. Which permit a hospital "
    "worked under, it checked itself before every order and noted in its own log; no receipt names it"
)


def permit_files(contents: ArtefactContents) -> dict[str, bytes]:
    """Return the study's permits by path, and the index that says which hospitals they name."""
    held = sorted(
        {
            signed.digest: signed
            for signed in contents.permits
            if signed.permit.fl_permit.study == contents.document.digest
        }.values(),
        key=lambda signed: (signed.permit.jti, signed.digest),
    )
    times = Counter(signed.permit.jti for signed in held)
    files: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    for signed in held:
        jti = signed.permit.jti
        # Two issuers may have given one number.
        name = jti if times[jti] == 1 else f"{jti}-{signed.digest[7:23]}"
        files[f"permits/{name}.jws"] = signed.token
        entries.append(_entry(f"permits/{name}.jws", signed, contents))
    named = {site for entry in entries for site in entry["sites"]}
    index: dict[str, Any] = {
        "schema": "solblom.permits/1",
        "note": NOTE,
        "permits": entries,
        "missing": {site: NONE_HELD for site in sorted(contents.sites) if site not in named},
    }
    return files | {INDEX: canonical_json(index)}


def _entry(file: str, signed: SignedPermit, contents: ArtefactContents) -> dict[str, Any]:
    permit = signed.permit
    return {
        "file": file,
        "digest": signed.digest,
        "issuer": {"name": signed.issuer.name, "public_key": signed.issuer.pem},
        "sites": sorted(set(permit.aud) & contents.sites.keys()),
        "valid": {"from": moment(max(permit.iat, permit.nbf)), "until": moment(permit.exp)},
        "noise_key_destroy_by": moment(permit.fl_permit.noise_key_destroy_by),
    }
