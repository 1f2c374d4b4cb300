"""One robot: joints, limits, cameras, kinematics, observation buffer; numpy alone."""
