"""`solblom data mock`: made-up patients that obey a contract, so that code can be tried without seeing data."""

from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, print_json, say
from solblom_verify.wording import counted

app = typer.Typer(
    help="Researcher: mock data that obey a contract", no_args_is_help=True, add_completion=False
)


@app.callback()
def data() -> None:
    """Researcher: mock data that obey a contract."""


@app.command("mock")
@command
def mock(
    contract: Path = typer.Argument(..., help="contract.toml of a study"),
    patients: int = typer.Option(..., "--patients", help="How many to make up"),
    file: Path = typer.Option(
        ..., "--out", help="New file: .csv for a table or bags, .jsonl for phenopackets"
    ),
    seed: int = typer.Option(1, "--seed", min=0, help="The same seed makes the same patients"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Make up patients that obey a contract. They are drawn from the contract alone: never from a patient."""
    from solblom_models.mock.files import write_mock
    from solblom_protocol.contracts.kinds import read_contract

    made = write_mock(read_contract(contract), patients, seed=seed, path=file)
    if as_json:
        body = {"path": str(made.path), "connector": made.connector, "patients": made.patients}
        print_json("solblom.data.mock/1", {**body, "seed": seed, "made_up": True})
    say(f"Wrote {made.path}: {counted(made.patients, 'made-up patient')}, ids mock-…")
    say(f'In a node.toml: connector = "{made.connector}", path = "{made.path.name}"')
    say("Every value was drawn by itself: a model that learns anything from them has a mistake.")
