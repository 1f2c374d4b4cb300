"""Quality-of-service profiles of all topics."""

from collections.abc import Sequence

from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

_RELIABLE, _BEST_EFFORT = QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT
_TRANSIENT_LOCAL = QoSDurabilityPolicy.TRANSIENT_LOCAL

# Subscriptions to sensors: a lost sample is not sent again, the next one follows.
SENSOR = QoSProfile(depth=5, reliability=_BEST_EFFORT)

# Subscriptions to sensors that need every sample and may read it late.
SENSOR_QUEUE = QoSProfile(depth=1000, reliability=_BEST_EFFORT)

# Our own sensor publishers: reliable, which is compatible with every subscription.
SENSOR_PUBLISHER = QoSProfile(depth=5, reliability=_RELIABLE)

# Chunks, trajectories and heartbeats: the newest message replaces one that was not read.
COMMAND = QoSProfile(depth=1, reliability=_RELIABLE)

# The guard's subscriptions to them: a flooding publisher does not displace the messages of others.
COMMAND_QUEUE = QoSProfile(depth=32, reliability=_RELIABLE)

# Set-points and diagnostics: monitoring nodes receive every message.
MONITOR = QoSProfile(depth=100, reliability=_RELIABLE)

# Modes, tasks and outcomes: a later subscription receives the last message.
LATCHED = QoSProfile(depth=1, reliability=_RELIABLE, durability=_TRANSIENT_LOCAL)

# The guard's subscription to them: the last messages of many publishers.
LATCHED_QUEUE = QoSProfile(depth=32, reliability=_RELIABLE, durability=_TRANSIENT_LOCAL)


def matching(offered: Sequence[QoSProfile], depth: int) -> QoSProfile:
    """The most reliable subscription profile that is compatible with all `offered` ones."""
    profile = QoSProfile(depth=depth, reliability=_RELIABLE)
    if any(one.reliability != _RELIABLE for one in offered):
        profile.reliability = _BEST_EFFORT
    if all(one.durability == _TRANSIENT_LOCAL for one in offered):
        profile.durability = _TRANSIENT_LOCAL
    return profile
