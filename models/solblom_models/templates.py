"""New study folders from the template (study.toml, contract.toml) that a task's package ships."""

import datetime as dt
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from solblom_models.task import find_task
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.key_files import write_new
from solblom_verify.wording import format_delta


@dataclass(frozen=True)
class TemplateValues:
    """What a template leaves open."""

    name: str
    ends: dt.date
    rounds: int = 10
    epsilon: float | None = 3.0  # None: off
    delta: float = 1e-5
    learning_rate: float = 1.364  # 6 / noise_multiplier at epsilon 3, delta 1e-5, 10 steps
    seed: int = 20261122


def write_template(folder: Path, task_name: str, values: TemplateValues) -> Path:
    """Write study.toml and contract.toml into a new folder; return the study file.

    Raises:
        ConfigurationError: SB-107 no such task or no template; SB-113 the folder has a study.
    """
    task = find_task(task_name)
    package = type(task).__module__.rpartition(".")[0]
    template = files(package) / "template" if package else None  # one module has no folder for it
    if template is None or not (template / "study.toml").is_file():
        raise ConfigurationError("SB-107", f"The task {task_name} ships no template")
    text = (template / "study.toml").read_text(encoding="utf-8")
    filled = text.format(
        name=values.name,
        ends=values.ends.isoformat(),
        rounds=values.rounds,
        epsilon='"off"' if values.epsilon is None else repr(float(values.epsilon)),
        delta=format_delta(values.delta),
        learning_rate=repr(values.learning_rate),
        seed=values.seed,
    )
    write_new(folder / "study.toml", filled.encode(), mode=0o644)
    contract = (template / "contract.toml").read_bytes()
    write_new(folder / "contract.toml", contract, mode=0o644)
    return folder / "study.toml"
