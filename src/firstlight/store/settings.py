"""Settings of the token store and of training batches."""

from pydantic import Field, field_validator

from firstlight.config import Settings


class DataSettings(Settings):
    """Settings of the token store and of batches."""

    valid_ratio: float = Field(
        0.1, gt=0, lt=1, description="ratio of documents (or of the end of the text) held out for validation"
    )
    seed: int = Field(
        1337,
        ge=0,
        lt=2**63,
        description="seed of the split by document and of an image palette, whatever run.seed is",
    )
    weights: list[float] | None = Field(
        None, description="mixing weights, one per source; by default proportional to their sizes"
    )
    document_masking: bool = Field(False, description="attend only within a document, also if a row holds several")

    max_unk_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="fraction of the tokens, or of the bytes, of a split that the tokenizer may not know; training is "
        "refused where more is unknown",
    )
    verify: bool = Field(
        True,
        description="verify every byte of the token store before it is used, once for unchanged files",
    )

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and (not value or min(value) < 0 or sum(value) <= 0):
            raise ValueError("must be positive numbers, one per source")
        return value
