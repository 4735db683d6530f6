"""How commands about a model are told which one, and whom to trust."""

import typer

REF = typer.Argument(..., help="name, name@v3, sha256:… or a folder")
TRUST = typer.Option(
    None,
    "--trust",
    help="Trust file (default: that of the Solblom folder in which the model stands)",
)
PHENOPACKETS = typer.Option(
    None, "--phenopacket", help="Phenopackets: a file, JSON lines or a folder"
)
RECEIPT_KEY = typer.Option(
    None, "--receipt-key", help="Key of the input's digest (default: prediction.key beside it)"
)
