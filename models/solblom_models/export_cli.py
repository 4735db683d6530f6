"""`solblom model export`: what a steward types to hand a model on in another form. Loads no torch."""

from pathlib import Path

import typer

from solblom_models.export import Form, export_model
from solblom_models.model_options import REF, TRUST
from solblom_protocol.console import JSON_OPTION, command, print_json, say
from solblom_protocol.home import HOME_OPTION


@command
def export(
    ref: str = REF,
    form: Form = typer.Option(
        ...,
        "--format",
        help="The net as ONNX, the whole artefact as a zipped RO-Crate, or its card",
    ),
    out_file: Path = typer.Option(..., "--out", help="New file"),
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, then write its ONNX file, its card, or all of it as one RO-Crate (a zip)."""
    from solblom_models.trusted import verified_model

    folder, verdict = verified_model(ref, home, trust)
    named, size = export_model(folder, form, out_file)
    if as_json:
        body = {"model": verdict.artefact, "ref": f"{verdict.name}@{verdict.version}"}
        file = {"file": str(out_file), "sha256": named.removeprefix("sha256:"), "bytes": size}
        print_json("solblom.model.export/1", {**body, "format": form.value, **file})
    say(f"Wrote {out_file} ({size:,} bytes, {named}) from {verdict.name}@{verdict.version}.")
    if form is Form.ONNX:
        say("A copy for other runtimes, for research: what counts are the artefact's weights.")
