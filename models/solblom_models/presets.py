"""Presets: named recipes of training, which `solblom study new --preset` writes into the study file in full.

A preset is a starting point, nothing more: the study holds every value, and only the study is signed.
What each did on two data sets is measured by `bench/presets.py`; docs/concepts/presets.md has the table.
"""

from dataclasses import dataclass
from typing import Literal

from solblom_models.accountant import calibrate_noise
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.tables import Study

RULE_PATIENTS = 150.0  # expected_batch_size of the studies from which the default's rule comes


@dataclass(frozen=True)
class LearningRateRule:
    """min(over_noise / noise multiplier, most) / clipping norm; both are public, so the rate costs nothing."""

    over_noise: float = 6.0
    most: float = 4.0  # without noise too
    grows_with_batch: bool = (
        False  # over_noise is for 150 patients: in larger means noise is smaller
    )

    def rate(
        self,
        noise_multiplier: str | None,
        *,
        clipping_norm: float = 1.0,
        expected_batch_size: float = RULE_PATIENTS,
    ) -> float:
        """Return the learning rate, to three decimals. `noise_multiplier` None: training without noise."""
        most = self.most
        if noise_multiplier is not None:
            grown = expected_batch_size / RULE_PATIENTS if self.grows_with_batch else 1.0
            most = min(self.over_noise * grown / float(noise_multiplier), most)
        return round(most / clipping_norm, 3)

    def in_words(self) -> str:
        """Return the rule for a comment: of clipping norm 1."""
        batch = " * expected_batch_size / 150" if self.grows_with_batch else ""
        return f"{self.over_noise:g}{batch} / noise multiplier, at most {self.most:g}"


@dataclass(frozen=True)
class Preset:
    """A named recipe, and in words what it does, when it fits and what speaks for it."""

    name: str
    does: str
    fits: str
    evidence: str
    rounds: int = 10
    local_steps: int = 1
    sampling_rate: float = 1.0
    averaging: Literal["none", "second-half"] = "second-half"
    server_momentum: float = 0.0
    rule: LearningRateRule = LearningRateRule()

    def noise(self, epsilon: float | None, delta: float, *, rounds: int) -> str | None:
        """Return the noise multiplier that keeps epsilon over `rounds`; None where epsilon is None."""
        if epsilon is None:
            return None
        return calibrate_noise(
            epsilon, delta, sampling_rate=self.sampling_rate, steps=rounds * self.local_steps
        )


_HEART = (
    "Settings chosen by cross-validation inside training patients of heart disease, about 790 tried"
)

PRESETS = (
    Preset(
        "few-large-steps",
        does="Ten full-batch steps, one a round; the mean of the later models is released",
        fits="The default: problems that a few steps solve, such as heart disease",
        evidence=f"{_HEART}; on SUPPORT2, at epsilon 1, it lost 0.05 to 0.07 AUROC to pooled training",
    ),
    Preset(
        "twenty-large-steps",
        does="Twenty full-batch steps, one a round, larger where hospitals are large; later models averaged",
        fits="Harder problems, where ten steps do not reach the best model",
        evidence=(
            "Rounds and rate chosen on the development half of SUPPORT2 (9 learning rates, then 15 settings); "
            "on the other half, at epsilon 1, it lost 0.006 AUROC to pooled training in large hospitals and "
            "0.05 in small ones"
        ),
        rounds=20,
        rule=LearningRateRule(over_noise=24.0, most=8.0, grows_with_batch=True),
    ),
    Preset(
        "server-momentum",
        does="Ten full-batch steps with momentum 0.9 at the coordinator; later models averaged",
        fits="For comparison: no case where it was better is known here",
        evidence="Momentum from the literature, rate 0.3 of the default's; not tuned",
        server_momentum=0.9,
        rule=LearningRateRule(over_noise=1.8, most=1.2),
    ),
    Preset(
        "last-model",
        does="The default without averaging: the last model is released",
        fits="For comparison, or where the last model is wanted as it is",
        evidence="The default's settings; not tuned",
        averaging="none",
    ),
    Preset(
        "many-small-steps",
        does="Classic DP-SGD: ten rounds of ten local steps, each on a tenth of the patients; later models averaged",
        fits="Large hospitals at epsilon 8 or more; costs more time",
        evidence="Sampling rate and steps as usual in the literature; not tuned",
        local_steps=10,
        sampling_rate=0.1,
        rule=LearningRateRule(most=0.25),
    ),
)
DEFAULT_PRESET = PRESETS[0]


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ConfigurationError: SB-103, no such preset.
    """
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise ConfigurationError(
        "SB-103",
        f"There is no preset {name}",
        f"Use one of {', '.join(preset.name for preset in PRESETS)}",
    )


def preset_in_rhythm(study: Study) -> Preset | None:
    """Return the preset whose rhythm a study has (sampling, local steps, momentum), of equal rounds if any."""
    training, privacy = study.training, study.privacy
    rhythm = (training.local_steps, privacy.sampling_rate, training.server_momentum)
    alike = [p for p in PRESETS if (p.local_steps, p.sampling_rate, p.server_momentum) == rhythm]
    same_rounds = [p for p in alike if p.rounds == training.rounds]
    return next(iter(same_rounds + alike), None)
