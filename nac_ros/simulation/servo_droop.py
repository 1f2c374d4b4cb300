"""Distance of a simulated arm at rest from its set-points: servo offset and gravity droop."""

from dataclasses import dataclass

import numpy as np

from nac_ros.core.config import bounded, check_bounds


@dataclass(frozen=True, kw_only=True)
class Droop:
    """The joints of the arm, not its gripper, rest at set-point + offset - compliance x torque.

    offset_rad: offset of each joint [rad]
    compliance_rad_per_nm: deflection of a joint per torque of gravity [rad/Nm]
    """

    offset_rad: float = bounded(0.0, -0.2, 0.2)
    compliance_rad_per_nm: float = bounded(0.0, 0.0, 0.1)

    def __post_init__(self) -> None:
        check_bounds(self)

    def of(self, torques: np.ndarray) -> np.ndarray:
        """Distance of the joints at rest from their set-points [rad] under the gravity `torques`
        [Nm], both `[joints]`."""
        return self.offset_rad - self.compliance_rad_per_nm * torques


RIGID = Droop()
