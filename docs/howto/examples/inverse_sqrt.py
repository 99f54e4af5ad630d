"""The inverse square root schedule (Vaswani et al. 2017), as a function of the fraction of the run."""

from firstlight.optim import ScheduleSettings


def inverse_sqrt(progress: float, settings: ScheduleSettings, scale: float = 10.0) -> float:
    """Fall from 1 as the inverse square root of the steps after warm-up.

    Args:
        progress: fraction of the steps after warm-up, from 0 to 1.
        settings: the table ``optim.schedule``.
        scale: the key ``optim.schedule.options.scale``; a larger one falls faster.
    """
    return (1 + scale * progress) ** -0.5
