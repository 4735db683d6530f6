"""Nets that rank diseases. All start from what is publicly known, and learn what patients add to it."""

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from solblom_models.phenotype.cases import CaseUnits
from solblom_models.phenotype.knowledge import Knowledge, knowledge_of, study_contract
from solblom_models.phenotype.naive_bayes import prior_log_shares, read_out
from solblom_models.phenotype.settings import (
    COUNT_WEIGHT,
    RankerSettings,
    noise_deviation,
    ranker_settings,
)
from solblom_protocol.studies.study import StudyDocument

SCORED_AT_ONCE = 512  # patients: a block of whole vectors stays small


def ranker_of(document: StudyDocument) -> "Ranker":
    """Return the net of a study at its start.

    Raises:
        ConfigurationError: SB-102, SB-103 or SB-106; SB-115 to SB-118 where the pinned files are missing.
    """
    settings = ranker_settings(document)
    knowledge = knowledge_of(study_contract(document))
    if settings.kind == "prototypes":
        return Prototypes(knowledge, settings, deviation=noise_deviation(document))
    return Trained(knowledge, settings, seed=document.study.training.seed)


class Ranker(nn.Module):
    """Scores diseases from a patient's vector, (B, F) to (B, K); its parameters are all that was learned.

    What is publicly known stands beside them as plain tensors: it follows from the study and does not travel.
    """

    def __init__(self, knowledge: Knowledge, settings: RankerSettings) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.settings = settings

    @abstractmethod
    def losses(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return one loss for each patient, shape (B,)."""

    @abstractmethod
    def weights(self) -> torch.Tensor:
        """Return what a patient's vector is multiplied with where that is all, float64, shape (K, F)."""

    @abstractmethod
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return scores, shape (B, K)."""

    def scores(self, units: CaseUnits) -> NDArray[np.float64]:
        """Return scores of all patients, float64, shape (N, K), in blocks."""
        found = [np.zeros((0, len(self.knowledge.names)))]
        with torch.no_grad():
            for start in range(0, len(units.ids), SCORED_AT_ONCE):
                chosen = range(start, min(start + SCORED_AT_ONCE, len(units.ids)))
                found.append(self(torch.from_numpy(units.dense(chosen))).double().numpy())
        return np.concatenate(found)


class Prototypes(Ranker):
    """Adds up patients by disease, once. What is learned is a sum, so masks, noise and files carry it as it is.

    The loss of a patient of disease y is -<row y, x'>, x' being the patient's vector with COUNT_WEIGHT beside it. Its
    gradient is -x' in row y, whatever the weights: one step over everybody adds up the patients of each disease.
    `naive_bayes.read_out` turns the sums into scores.
    """

    def __init__(
        self, knowledge: Knowledge, settings: RankerSettings, *, deviation: float = 0.0
    ) -> None:
        super().__init__(knowledge, settings)
        self.deviation = deviation  # of the noise on the sums, all hospitals' noise together
        self.sums = nn.Linear(knowledge.space.size + 1, len(knowledge.names), bias=False)
        nn.init.zeros_(self.sums.weight)

    def losses(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss whose gradient is a patient's contribution, shape (B,)."""
        beside = torch.full((len(features), 1), COUNT_WEIGHT).to(features)
        rows: torch.Tensor = self.sums(torch.cat([features, beside], dim=1))
        return -rows.gather(1, labels[:, None]).squeeze(1)

    def weights(self) -> torch.Tensor:
        """Return what each term says for each disease, from the sums and the public profiles."""
        sums = self.sums.weight.detach().double().cpu().numpy()
        settings = self.settings
        found = read_out(
            self.knowledge,
            sums[:, :-1],
            sums[:, -1] / COUNT_WEIGHT,
            prior_weights=(settings.prior_weight, settings.excluded_prior_weight),
            deviation=self.deviation,
        )
        return torch.from_numpy(found)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return scores, shape (B, K), float64; without noise they are log likelihoods up to a constant."""
        return features.double() @ self.weights().to(features.device).T


class Trained(Ranker):
    """A linear layer, or a perceptron with one hidden layer, that corrects what public profiles say.

    Logits are the profiles' log likelihood and the net's own, which is zero at the start. So the first prediction is
    that of the public knowledge alone, and training moves away from it as far as patients ask for.
    """

    def __init__(self, knowledge: Knowledge, settings: RankerSettings, *, seed: int) -> None:
        super().__init__(knowledge, settings)
        self.profiles = torch.from_numpy(prior_log_shares(knowledge)).float()
        size, diseases = knowledge.space.size, len(knowledge.names)
        self.hidden: nn.Linear | None = None
        if settings.hidden is not None:
            self.hidden = nn.Linear(size, settings.hidden)
            generator = torch.Generator().manual_seed(seed)
            nn.init.xavier_uniform_(self.hidden.weight, generator=generator)
            nn.init.zeros_(self.hidden.bias)
        self.last = nn.Linear(settings.hidden or size, diseases)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def losses(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of each patient, shape (B,)."""
        return nn.functional.cross_entropy(self(features), labels, reduction="none")

    def weights(self) -> torch.Tensor:
        """Return profiles and linear weights together; of a perceptron, the profiles alone."""
        whole = self.profiles.double()
        return whole + self.last.weight.detach().double().cpu() if self.hidden is None else whole

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, K)."""
        inner = features if self.hidden is None else torch.tanh(self.hidden(features))
        learned: torch.Tensor = self.last(inner)
        return learned + features @ self.profiles.to(features).T
