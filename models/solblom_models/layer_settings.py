"""What the settings of a linear net and of a perceptron share, in every task that offers both."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1, le=100_000)]


class LayerSettings(BaseModel):
    """Part of `task.model` of a study; a task adds its kinds, one of which is `mlp`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    hidden: Annotated[
        tuple[Width, ...], Field(max_length=8)
    ] = ()  # mlp: units of each hidden layer
    # Public weight of a positive label in the loss, before clipping. A weighted mean over the batch, as
    # torch offers, would let other patients' labels change one patient's gradient.
    positive_weight: Annotated[float, Field(gt=0, le=1000)] = 1.0

    @model_validator(mode="after")
    def _layers(self) -> "LayerSettings":
        if (self.kind == "mlp") != bool(self.hidden):
            raise ValueError("hidden belongs to mlp, which needs at least one hidden layer")
        return self
