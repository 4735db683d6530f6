"""New study folders from the template (study.toml, contract.toml) that a task's package ships."""

import datetime as dt
import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from solblom_models.presets import DEFAULT_PRESET, Preset
from solblom_models.task import find_task
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import write_new
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import format_delta

UNDECLARED_TUNING = """\
# [tuning]                             # how you chose the settings; left out, the privacy statement says: undeclared
# configurations_tried = 0             # every setting whose result you have seen
# tried_on = "public"                  # public | mock | same-patients
"""


LOCAL_NOISE = 'noise = "local"                        # each hospital adds all of the noise to its own updates'
SHARED_NOISE = 'noise = "shared"                       # each hospital adds a share; only the sum of all is opened'
SECURE_SUM = """
[secure_sum]                           # all must answer every round, unless threshold names fewer
roster = "roster.json"                 # from the coordinator's operator: solblom coordinator roster
colluders = 1                          # hospitals that may work with the coordinator: their noise is not counted
ring_bits = 32                         # 64: more room, twice the bytes
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
    shared_by: int | None = None  # hospitals of a secure sum; None: each adds all of its noise
    hospitals: int = 3  # about how many take part, where a template asks
    min_patients: int = 20  # of a training set


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


def unedited_words(document: StudyDocument) -> list[str]:
    """Return which of title, purpose and legal basis are still the words of the task's template.

    A study made from a template of a third party, or of none, has none of its words.
    """
    package = type(find_task(document.study.task.name)).__module__.rpartition(".")[0]
    template = files(package) / "template" / "study.toml" if package else None
    if template is None or not template.is_file():
        return []
    text, table = template.read_text(encoding="utf-8"), document.study.study
    words = {"title": table.title, "purpose": table.purpose, "legal_basis": table.legal_basis[0]}
    return [key for key, value in words.items() if f'"{value}"' in text]


def _filled(text: str, values: TemplateValues) -> str:
    preset = values.preset
    rounds = preset.rounds if values.rounds is None else values.rounds
    batch = values.patients * preset.sampling_rate
    noise = preset.noise(values.epsilon, values.delta, rounds=rounds)
    if values.shared_by is not None:
        noise = _share(noise, preset, values.shared_by)
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
        noise=LOCAL_NOISE if values.shared_by is None else SHARED_NOISE,
        secure_sum="" if values.shared_by is None else SECURE_SUM,
        nodes=3 if values.shared_by is None else values.shared_by,
        hospitals=values.hospitals if values.shared_by is None else values.shared_by,
        min_patients=values.min_patients,
        tuning=(values.tuning or UNDECLARED_TUNING).rstrip("\n"),
    )


def _share(noise: str | None, preset: Preset, hospitals: int) -> str:
    """Return the multiplier of one hospital's share, for the learning rate's rule; one colluder is assumed.

    Raises:
        ConfigurationError: SB-103, the preset cannot be accounted for with shared noise.
    """
    if noise is None or hospitals < 3:
        raise ConfigurationError(
            "SB-103", "Shared noise needs an epsilon and at least three hospitals", ""
        )
    if preset.local_steps != 1 or preset.sampling_rate != 1.0:
        raise ConfigurationError(
            "SB-103",
            f"The preset {preset.name} has {preset.local_steps} local steps at sampling rate "
            f"{preset.sampling_rate:g}; shared noise needs one step over all patients",
            f"Use --preset {DEFAULT_PRESET.name}",
        )
    return f"{float(noise) / math.sqrt(hospitals - 1):.4f}"
