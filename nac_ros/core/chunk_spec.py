"""Shape and columns of action chunks, shared by tokenizers and policies."""

from dataclasses import dataclass, field

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import ConfigError
from nac_ros.core.normalize import NormalizerConfig

MAX_RATE_HZ = 1000.0


@dataclass(frozen=True, kw_only=True)
class ChunkSpec:
    """Shape and columns of the action chunks `[horizon, action_dim]` of a tokenizer or policy.

    names, units, rate_hz: of the columns, and the control rate; empty or 0 if unknown
    relative: True for columns predicted relative to the reference (the joint state at the time of
        the observation); empty = all absolute
    normalizer: how the range of each column is found in the training actions
    """

    horizon: int = number_field(32, 1)
    action_dim: int = number_field(7, 1)
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    rate_hz: float = number_field(0.0, 0, MAX_RATE_HZ, "Hz")
    relative: tuple[bool, ...] = ()
    normalizer: NormalizerConfig = field(default_factory=NormalizerConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        self.normalizer.check_columns(self.action_dim)
        for column in ("names", "units", "relative"):
            length = len(getattr(self, column))
            if length not in (0, self.action_dim):
                raise ConfigError(
                    f"chunks: {column} has {length} entries for {self.action_dim} dimensions"
                )

    @property
    def relative_columns(self) -> tuple[bool, ...]:
        """One entry per column, also where `relative` is empty."""
        return self.relative or (False,) * self.action_dim
