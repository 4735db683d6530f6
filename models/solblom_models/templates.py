"""New study folders from the template (study.toml, contract.toml) that a task's package ships."""

import datetime as dt
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from solblom_models.presets import DEFAULT_PRESET, Preset
from solblom_models.task import find_task
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.key_files import write_new
from solblom_verify.wording import format_delta

UNDECLARED_TUNING = """\
# [tuning]                             # how you chose the settings; left out, the privacy statement says: undeclared
# configurations_tried = 0             # every setting whose result you have seen
# tried_on = "public"                  # public | mock | same-patients
"""


@dataclass(frozen=True)
class TemplateValues:
    """What a template leaves open."""

    name: str
    ends: dt.date
    preset: Preset = DEFAULT_PRESET
    rounds: int | None = None  # None: the preset's
    epsilon: float | None = 3.0  # None: off
    delta: float = 1e-5
    patients: float = 150.0  # of one hospital, about; sums are divided by those expected in a step
    seed: int = 20261122
    tuning: str = ""  # a [tuning] table; empty: undeclared


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
    write_new(folder / "study.toml", _filled(text, values).encode(), mode=0o644)
    contract = (template / "contract.toml").read_bytes()
    write_new(folder / "contract.toml", contract, mode=0o644)
    return folder / "study.toml"


def _filled(text: str, values: TemplateValues) -> str:
    preset = values.preset
    rounds = preset.rounds if values.rounds is None else values.rounds
    batch = values.patients * preset.sampling_rate
    noise = preset.noise(values.epsilon, values.delta, rounds=rounds)
    return text.format(
        name=values.name,
        ends=values.ends.isoformat(),
        preset=preset.name,
        does=preset.does,
        rounds=rounds,
        local_steps=preset.local_steps,
        learning_rate=preset.rule.rate(noise, expected_batch_size=batch),
        rule=preset.rule.in_words(),
        batch=f"{batch:g}",
        server_momentum=preset.server_momentum,
        averaging=preset.averaging,
        epsilon='"off"' if values.epsilon is None else repr(float(values.epsilon)),
        delta=format_delta(values.delta),
        sampling_rate=preset.sampling_rate,
        seed=values.seed,
        tuning=(values.tuning or UNDECLARED_TUNING).rstrip("\n"),
    )
