"""`solblom model replay`: what a steward types to add a model's rounds up again. Loads neither torch nor Flower."""

from pathlib import Path

from solblom_models.model_options import REF, TRUST
from solblom_protocol.console import JSON_OPTION, command, out, print_json
from solblom_protocol.home import HOME_OPTION
from solblom_verify.wording import counted


@command
def replay_model(
    ref: str = REF,
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, then add up its rounds again to the released weights, bit for bit (grade A).

    Exit 5: something differs, and is named. Exit 1: the model keeps nothing to add up.
    """
    from solblom_models.replay import not_shown, replay
    from solblom_models.replay_files import GRADE_A
    from solblom_models.trusted import pinned_trust, verified_model
    from solblom_models.withdrawn import say_if_withdrawn

    folder, verdict = verified_model(ref, home, trust, withdrawn_too=True)
    say_if_withdrawn(verdict, folder, pinned_trust(folder, trust)[1])
    found = replay(folder)
    lines = not_shown(found)
    if as_json:
        body = {"ok": True, "grade": GRADE_A, "model": verdict.artefact, **vars(found)}
        print_json("solblom.model.replay/1", {**body, "not_shown": list(lines)})
        return
    console = out()
    what = counted(found.updates, "opened sum" if found.masked else "update")
    name = f"{verdict.name}@{verdict.version}"
    console.print(f"[bold green]THE SAME[/]  {name}  {verdict.artefact}")
    console.print(
        f"grade A: {counted(found.rounds, 'round')} and {what} lead to the model's weights, bit for bit",
        markup=False,
    )
    console.print(f"rule: {found.rule}", markup=False)
    console.print(f"model.final_model of the manifest: {found.final_model}", markup=False)
    if found.releases:
        console.print(
            f"{counted(found.releases, 'released evaluation')} of these weights", markup=False
        )
    console.print("not shown:", style="bold")
    for line in lines:
        console.print(f"  - {line}", markup=False)
