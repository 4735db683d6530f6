"""What the parts of a data contract share: texts, codes, finite numbers, and a meaning in two languages."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=300)]
Code = Annotated[str, Field(min_length=0, max_length=60)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Meaning(BaseModel):
    """What the variable means to a clinician, in Norwegian and English."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    en: Text
    no: Text
