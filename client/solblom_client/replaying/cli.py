"""`solblom node replay`: a person at the hospital has one of its rounds worked on again."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import IntegrityError
from solblom_protocol.home import HOME_OPTION
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_client.replaying.replay import ReplayedRound

app = typer.Typer(help="Hospital: work on a round again", add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")


@app.command("replay")
@command
def replay_round_here(
    ref: str = typer.Argument(..., help="The model: name, name@v3, sha256:… or a folder"),
    number: int = typer.Option(..., "--round", min=1, help="The round"),
    noise: bool = typer.Option(
        False, "--noise", help="Judge the noise in the update too (grade C); prints verdicts only"
    ),
    node: Path = NODE_OPTION,
    trust: Path | None = typer.Option(None, "--trust", help="Trust file of the model"),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, then work on one of this hospital's rounds again: the same update, or not (grade B).

    Charges nothing, keeps nothing, sends nothing. Exit 4: a rule of the hospital says no. Exit 5: something differs.
    """
    from solblom_client.keys import read_node_keys
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config
    from solblom_client.replaying.replay import replay_round
    from solblom_client.vault import utc_now
    from solblom_models.trusted import pinned_trust, verified_model
    from solblom_models.withdrawn import say_if_withdrawn

    config = load_node_config(node)
    check_user(config)
    folder, verdict = verified_model(ref, home, trust, withdrawn_too=True)
    say_if_withdrawn(verdict, folder, pinned_trust(folder, trust)[1])
    keys = read_node_keys(config.state)
    found = replay_round(config, keys, folder, number, with_noise=noise, now=utc_now())
    if as_json:
        print_json("solblom.node.replay/1", {"model": verdict.artefact, **_shown(found)})
    else:
        _print(found, f"{verdict.name}@{verdict.version}")
    _check(found)


def _shown(found: "ReplayedRound") -> dict[str, object]:
    """Return what may be shown to the person here: digests that the model has, and verdicts."""
    body: dict[str, object] = {
        "grade": "B" if found.noise is None else "C",
        "ok": found.same and (found.noise is None or found.noise.passed),
        "site": found.site,
        "round": found.round,
        "work": found.work,
        "update": found.update,
        "same": found.same,
    }
    if found.noise is not None:
        verdict = found.noise
        body["noise"] = {
            "passed": verdict.passed,
            "rounds": list(verdict.rounds),
            "values": verdict.values,
            "power_against_half": f"{verdict.power:.4f}",
            "tests": [vars(test) for test in verdict.tests],
        }
    return body


def _print(found: "ReplayedRound", name: str) -> None:
    console = out()
    mark = "[bold green]THE SAME[/]" if found.same else "[bold red]ANOTHER UPDATE[/]"
    console.print(f"{mark}  {name}, round {found.round} at {found.site}")
    console.print("grade B: worked on again from the data, and compared with the receipt's digest:")
    console.print(f"  {found.update}", markup=False)
    if found.noise is not None:
        verdict = found.noise
        rounds = ", ".join(str(number) for number in verdict.rounds)
        values = counted(verdict.values, "value")
        console.print(f"grade C: noise of rounds {rounds}, {values} each")
        for test in verdict.tests:
            said = "[green]pass[/]" if test.passed else "[bold red]FAIL[/]"
            console.print(f"  {said}  {test.name}, {test.threshold}")
        console.print(
            f"  half of the noise would have failed with probability {verdict.power:.4f}",
            markup=False,
        )
    say("Nothing was charged, kept or sent. It stands in the log of decisions.")


def _check(found: "ReplayedRound") -> None:
    """Raise what differs.

    Raises:
        IntegrityError: SB-447 or SB-448.
    """
    place = f"round {found.round}"
    if found.noise is not None and not found.noise.passed:
        failed = ", ".join(test.name for test in found.noise.tests if not test.passed)
        other = "" if found.same else "; the update is another one too"
        rounds = ", ".join(str(number) for number in found.noise.rounds)
        raise IntegrityError(
            "SB-448", f"{place}: the noise of rounds {rounds} fails: {failed}{other}"
        )
    if not found.same:
        raise IntegrityError("SB-447", f"{place}: not the update that the receipt names")
