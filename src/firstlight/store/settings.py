"""How text is kept and dealt out."""

from pydantic import Field, field_validator

from firstlight.config import Settings


class DataSettings(Settings):
    """Settings of the token store and of batches."""

    valid_ratio: float = Field(
        0.1, gt=0, lt=1, description="share of documents (or of the text's end) kept for validation"
    )
    weights: list[float] | None = Field(
        None, description="shares of the sources in what is trained on, a number a source; by size where not set"
    )
    document_masking: bool = Field(False, description="a document sees only itself, though others share its row")

    @field_validator("weights")
    @classmethod
    def _shares(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and (not value or min(value) < 0 or sum(value) <= 0):
            raise ValueError("must be positive numbers, one a source")
        return value
