"""Settings that every optimizer has."""

from pydantic import Field

from firstlight.config import TaggedSettings
from firstlight.optim.schedule import Schedule


class OptimizerSettings(TaggedSettings):
    """Base of the settings of every optimizer."""

    lr: float = Field(1e-3, gt=0, description="learning rate")
    weight_decay: float = Field(0.0, ge=0, description="of matrices and embeddings; never of vectors")
    clip_norm: float = Field(1.0, ge=0, description="bound on the norm of the gradient; 0 = none")
    clip_value: float = Field(0.0, ge=0, description="bound on each value of the gradient; 0 = none")
    schedule: Schedule = Schedule()
