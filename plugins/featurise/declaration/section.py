"""What every part of the declaration has in common."""

from pydantic import BaseModel, ConfigDict, model_validator

from featurise.declaration import former_names


class Section(BaseModel):
    """A part of the declaration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, data: object) -> object:
        return former_names.replaced(data)
