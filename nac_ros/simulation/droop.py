"""How far a simulated arm rests beside its set-points: by servos that are off, and by gravity."""

from dataclasses import dataclass

import numpy as np

from nac_ros.config import bounded, check_bounds


@dataclass(frozen=True, kw_only=True)
class Droop:
    """The joints of the arm, not its gripper, rest at set-point + offset - compliance x torque.

    offset_rad: of each joint
    compliance_rad_per_nm: by which a joint gives way to the torque that gravity asks of it
    """

    offset_rad: float = bounded(0.0, -0.2, 0.2)
    compliance_rad_per_nm: float = bounded(0.0, 0.0, 0.1)

    def __post_init__(self) -> None:
        check_bounds(self)

    def of(self, torques: np.ndarray) -> np.ndarray:
        """How far the joints rest beside their set-points [rad] under gravity's `torques` [Nm],
        both `[joints]`."""
        return self.offset_rad - self.compliance_rad_per_nm * torques


RIGID = Droop()
