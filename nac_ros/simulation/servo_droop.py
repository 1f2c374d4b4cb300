"""Distance of a simulated arm at rest from its set-points: servo offset and gravity droop."""

from dataclasses import dataclass

import numpy as np

from nac_ros.core.config import check_fields, number_field


@dataclass(frozen=True, kw_only=True)
class ServoDroop:
    """The joints of the arm, not its gripper, rest at set-point + offset - compliance x torque.

    offset_rad: offset of each joint [rad]
    compliance_rad_per_nm: deflection of a joint per torque of gravity [rad/Nm]
    """

    offset_rad: float = number_field(0.0, -0.2, 0.2)
    compliance_rad_per_nm: float = number_field(0.0, 0.0, 0.1)

    def __post_init__(self) -> None:
        check_fields(self)

    def resting_error(self, torques: np.ndarray) -> np.ndarray:
        """Distance of the joints at rest from their set-points [rad] under the gravity `torques`
        [Nm], both `[joints]`."""
        return self.offset_rad - self.compliance_rad_per_nm * torques


RIGID = ServoDroop()
