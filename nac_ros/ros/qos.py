"""Quality of service, named once."""

from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

_RELIABLE, _BEST_EFFORT = QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT

# Sensors, as they are listened to: a lost sample is not sent again, the next one comes.
SENSOR = QoSProfile(depth=5, reliability=_BEST_EFFORT)

# Sensors, for whoever wants every sample and may be late to read them.
SENSOR_QUEUE = QoSProfile(depth=1000, reliability=_BEST_EFFORT)

# Sensors, as our own are offered: reliable, so that any subscriber fits.
SENSOR_PUBLISHER = QoSProfile(depth=5, reliability=_RELIABLE)

# Chunks, trajectories, heartbeats: it arrives, and the newest replaces what was not read yet.
COMMAND = QoSProfile(depth=1, reliability=_RELIABLE)

# The same, as the guard listens: a sender that floods the topic pushes nobody else's out.
COMMAND_QUEUE = QoSProfile(depth=32, reliability=_RELIABLE)

# The commanded set-points and diagnostics: whoever looks on gets all of them.
MONITOR = QoSProfile(depth=100, reliability=_RELIABLE)

# Modes, tasks, outcomes: a late joiner must know the present one.
LATCHED = QoSProfile(
    depth=1, reliability=_RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
)

# The same, as the guard listens: what many senders have latched, and none pushes another out.
LATCHED_QUEUE = QoSProfile(
    depth=32, reliability=_RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
)
