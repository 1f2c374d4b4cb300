"""Online trajectory generator on a fixed time grid: tracks a reference, always ends in a stop."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nac_ros.control.checks import check_displaced
from nac_ros.control.controller_reference import settling_time_s
from nac_ros.control.jerk_limiter import JerkLimiter, MotionSegment
from nac_ros.control.stopping import MIN_KNOT_GAP_S, MotionState, distinct_times
from nac_ros.control.tracking import TrackingController
from nac_ros.core.types import JointTrajectory
from nac_ros.robot.spec import RobotSpec

# [s] Smallest distance of two points of a trajectory message. A controller interpolates with
# quintics. Over h seconds the third derivative of a quintic between positions rounded to e is off
# by 60 e / h^3: by 0.03 rad/s^3 at 3 rad in float64, and by 10^9 times as much over 0.1 us.
SEGMENT_S = 1e-4

# A JointTrajectoryController treats a trajectory that it receives after its first point as late,
# and bridges from its present state to the next point with a spline of its own. So the first
# point of a message is at least TRANSIT_S ahead [s]. The controller's spline between points that
# are already past has more jerk and a little more acceleration than the planned motion; planning
# uses PLANNING_SHARES of the limits to leave room for it (10,000 random sequences of the soak run
# stayed within the full limits).
TRANSIT_S = 0.03
PLANNING_SHARES = {"velocity": 0.998, "acceleration": 0.97, "jerk": 0.5}
# That spline overshoots by what a joint can change between two points. So full speed and full
# acceleration take at least this long [s] to reach. Without both bounds a fifth of 60 random
# robots exceeded an acceleration limit by up to 17 %; with full speed after 0.1 s 2 of 500 robots
# exceeded a velocity limit by 0.13 %, after 0.2 s 1 of 1000 by 0.12 %.
RISE_S = {"velocity": 0.2, "acceleration": 0.05}
LONGEST_STOP_S = 2.0  # with more time left than this no stop has to be computed
CLIP_SHARE = 0.1  # of a period at full speed (3 mrad): a larger tracking error counts as a clip

Reference = Callable[[float], MotionState]  # time [s] -> reference state `[D]`


class CommittedTrajectory:
    """Knots joined by constant jerk: first a tracking part, then a stop.

    tracking_end: time [s] at which the tracking part ends and the stop begins
    limiter: computes the stops; positions: `[D]`, where the arm rests at time `at` [s]

    Before the first knot and after the last one the arm is at rest. `truncate` never changes what
    precedes its time, so trajectories that were sent earlier stay valid up to there.
    """

    STATE_FIELDS = ("tracking_end", "_times", "_states")

    def __init__(self, limiter: JerkLimiter, positions: np.ndarray, at: float):
        self._limiter, self.tracking_end = limiter, at
        self._times = np.array([at])  # [N]
        self._states = np.stack(MotionState.at_rest(positions))[None]  # [N, 3, D]

    @property
    def end(self) -> float:
        """Time of the last knot [s]; the arm is at rest from then on."""
        return float(self._times[-1])

    @property
    def end_state(self) -> MotionState:
        """The state of the last knot."""
        return MotionState(*self._states[-1])

    def is_at_rest(self, t: float) -> bool:
        """Whether the arm is at rest at `t` [s] and stays so."""
        return len(self._times) == 1 or self.end <= t

    def state_at(self, t: float) -> MotionState:
        """The commanded state `[D]` at `t` [s]."""
        k = int(np.searchsorted(self._times, t, side="right")) - 1
        if k < 0 or k + 1 == len(self._times):
            return MotionState.at_rest(self._states[max(k, 0), 0])
        span = self._times[k + 1] - self._times[k]
        jerk = (self._states[k + 1, 2] - self._states[k, 2]) / span
        return MotionState(*self._states[k]).after(t - self._times[k], jerk)

    def truncate(self, t: float) -> MotionState:
        """Removes everything after `t` [s]; returns the state at `t`, which is now the end."""
        state, kept = self.state_at(t), self._times < t - MIN_KNOT_GAP_S
        self._times = np.append(self._times[kept], t)
        self._states = np.concatenate([self._states[kept], np.stack(state)[None]])
        self.tracking_end = t
        return state

    def append(self, segment: MotionSegment, until: float) -> MotionState:
        """Extends the tracking part by `segment`, which ends at `until` [s]; returns the state
        there. Only after `truncate`."""
        times = np.append(self.tracking_end + segment.times[:-1], until)
        self._add_knots(times, np.stack(segment.states, 1))
        self.tracking_end = until
        return self.end_state

    def append_stop(self) -> None:
        """Adds the time-optimal stop after the tracking part."""
        state = self.end_state
        if not state.is_moving:
            return
        stop = self._limiter.stop_profile(state)
        knots = distinct_times(stop.knots())
        states = np.stack(stop.states_at(knots), 1)
        states[-1, 1:] = 0
        self._add_knots(self.tracking_end + knots, states)

    def drop_before(self, t: float) -> None:
        """Removes the knots that are not needed for states after `t` [s]."""
        first = max(int(np.searchsorted(self._times, t, side="right")) - 1, 0)
        self._times, self._states = self._times[first:], self._states[first:]

    def trajectory(self, after: float) -> JointTrajectory:
        """The knots later than `after` [s], at least the last one, SEGMENT_S apart."""
        first = min(int(np.searchsorted(self._times, after, side="right")), len(self._times) - 1)
        kept = first + _spaced(self._times[first:])
        positions, velocities, accelerations = np.moveaxis(self._states[kept], 1, 0)
        times = self._times[kept]
        return JointTrajectory(
            float(times[0]), times - times[0], positions, velocities, accelerations
        )

    def _add_knots(self, times: np.ndarray, states: np.ndarray) -> None:
        self._times = np.concatenate([self._times, times])
        self._states = np.concatenate([self._states, states])


def _spaced(times: np.ndarray) -> np.ndarray:
    """Indices of ascending `times` that are at least SEGMENT_S apart, including the last one.

    A quintic over two merged knots needs less than twice their jerk.
    """
    kept: list[int] = []
    for i, t in enumerate(times[:-1].tolist()):
        if not kept or t - times[kept[-1]] >= SEGMENT_S:
            kept.append(i)
    if kept and times[-1] - times[kept[-1]] < SEGMENT_S:
        kept.pop()
    return np.array([*kept, len(times) - 1])


class TrackingGoal(NamedTuple):
    """A reference to track until `end` [s] with `speed_scale` of the velocity limits.

    stops_by_end: the arm is at rest by `end`; otherwise it begins to stop then
    """

    reference: Reference
    end: float
    speed_scale: float
    stops_by_end: bool = False


class TrajectoryGenerator:
    """Plans set-points at `origin` + k periods; the limits also hold between them.

    origin: time of grid point 0 [s]
    commanded: whether anything was commanded since `initialize_at`
    clips: int64 `[D]`, set-points whose tracking error exceeds CLIP_SHARE

    At `now`, everything before `commit_time(now)` is final: trajectories sent earlier, still under
    way or sent late agree up to there.
    """

    # Grid points are counted from `origin` in periods. Four of them matter, in ascending order:
    #   _n_final                   the last one that `setpoints` has returned
    #   commit                     the first one that may still change: now + lead
    #   tracked                    the end of the tracking part before `track`
    #   commit + _lookahead_steps  the end of the tracking part after `track`
    # `track` removes the stop after `tracked`, or everything after `commit` if the goal changed or
    # the tracking part has already ended; it adds tracking periods up to the lookahead, and then a
    # stop. If no further call comes, the controllers execute that stop.

    STATE_FIELDS = (
        "origin",
        "_n_final",
        "_last_setpoint_at",
        "commanded",
        "_last_sent",
        "clips",
        "_committed",
        "_has_update",
        "_settled_at",
        "_repeat_until",
    )

    def __init__(self, spec: RobotSpec, lookahead_s: float, lead_s: float):
        self._spec, self._planning_spec = spec, with_planning_margins(spec)
        self._limiter = JerkLimiter(self._planning_spec)
        self._controller = TrackingController(self._planning_spec, self._limiter)
        self._clip_error = CLIP_SHARE * spec.velocity_limit / spec.guard_rate_hz
        self._period = 1 / spec.guard_rate_hz
        self._lookahead_steps = max(round(lookahead_s / self._period), 1)
        self._lead_steps = max(round(lead_s / self._period), 2)
        self.origin, self._n_final, self._last_setpoint_at = 0.0, 0, -np.inf
        self._has_update = False  # the trajectory changed since it was last sent
        self._committed: CommittedTrajectory | None = None
        self.commanded = False
        self._last_sent: np.ndarray | None = None  # last point of the trajectories before
        self._settled_at = self._repeat_until = -np.inf
        self.clips = np.zeros(spec.action_dim, np.int64)

    @property
    def initialized(self) -> bool:
        """Whether the position of the arm is known."""
        return self._committed is not None

    @property
    def committed(self) -> CommittedTrajectory:
        """The committed trajectory; its times are seconds after `origin`."""
        assert self._committed is not None, "call initialize first"
        return self._committed

    @property
    def last_sent(self) -> np.ndarray | None:
        """The last point that was sent to the controllers, `[D]`; None if nothing was sent."""
        return self.rest_positions() if self.commanded else self._last_sent

    def clear(self) -> None:
        """Forgets the position of the arm; keeps the last point sent to the controllers."""
        self._last_sent, self.commanded = self.last_sent, False
        self.discard_update()
        self._committed = None

    def initialize(self, now: float, measured: np.ndarray) -> None:
        """Starts at rest for an arm `measured` at `[D]`: at the last point sent to the
        controllers, or where it was measured if nothing was sent or it was moved since."""
        last_sent = self.last_sent
        if last_sent is not None and check_displaced(self._spec, measured, last_sent) is None:
            measured = last_sent
        self.initialize_at(now, measured)

    def initialize_at(self, now: float, positions: np.ndarray) -> None:
        """Starts at rest at `positions` `[D]`, clipped to the limits."""
        positions = np.clip(positions, self._spec.position_low, self._spec.position_high)
        self._last_sent, self._settled_at, self._repeat_until = self.last_sent, -np.inf, -np.inf
        self.origin, self._n_final = now, 0
        if self._last_setpoint_at > now + (self._lead_steps + 1) * self._period:
            self._last_setpoint_at = -np.inf  # the clock was set back
        self._committed = CommittedTrajectory(self._limiter, positions, 0.0)
        self.commanded = False

    def settle_controllers(self, now: float, measured: np.ndarray) -> None:
        """Sends the rest position to controllers whose set-point is unknown but near the arm,
        `measured` at `[D]`; they move there along a quintic."""
        if not self.commanded:
            self.align_grid(now)
        seconds = settling_time_s(
            self._planning_spec, self.rest_positions(), measured, self.last_sent
        )
        self._repeat_until = now + TRANSIT_S  # sent repeatedly in case a message is lost
        self._settled_at = self._repeat_until + seconds + TRANSIT_S
        self.commanded = self._has_update = True

    def controllers_settling(self, now: float) -> bool:
        """Whether the controllers may still be moving to the position of `settle_controllers`."""
        return now < self._settled_at

    def align_grid(self, now: float) -> None:
        """Moves the grid so that `now` [s] is a grid point; only before anything is commanded."""
        assert not self.commanded
        self.origin, self._n_final = now, self._lead_steps - 1

    def commit_time(self, now: float) -> float:
        """Time [s] of the first set-point that may still change at `now` [s]."""
        return self.origin + self._period * self._commit_index(now)

    def is_at_rest(self, now: float) -> bool:
        """Whether the motion is over at `now` [s]."""
        return self.committed.is_at_rest(now - self.origin) and not self.controllers_settling(now)

    def rest_duration_s(self, now: float) -> float:
        """For how long [s] the motion has been over at `now` [s]; negative while it is not."""
        return now - max(self.origin + self.committed.end, self._settled_at)

    def state_at(self, t: float) -> MotionState:
        """The commanded state `[D]` at `t` [s]."""
        return self.committed.state_at(t - self.origin)

    def rest_positions(self) -> np.ndarray:
        """Positions `[D]` at which the arm comes to rest."""
        return self.committed.end_state.positions

    def planned_positions(self) -> np.ndarray:
        """Positions at the end of the tracking part and at the end of the stop, `[2, D]`."""
        tracking_end = self.committed.state_at(self.committed.tracking_end)
        return np.stack([tracking_end.positions, self.rest_positions()])

    def track(self, now: float, goal: TrackingGoal, goal_changed: bool) -> None:
        """Extends the tracking part towards `goal`, and appends a stop.

        goal_changed: whether `goal` is not the one of the last call
        """
        commit, committed, period = self._commit_index(now), self.committed, self._period
        tracked = round(committed.tracking_end / period)
        if goal_changed or tracked < commit:
            tracked = commit
        state = committed.truncate(tracked * period)
        self.commanded = True
        reference = goal.reference(self.origin + tracked * period)
        while tracked < commit + self._lookahead_steps and self._may_track(
            state, (tracked + 1) * period, goal
        ):
            tracked += 1
            following = goal.reference(self.origin + tracked * period)
            segment = self._controller.step(state, reference, following, goal.speed_scale)
            state, reference = committed.append(segment, tracked * period), following
            self.clips += np.abs(state.positions - reference.positions) > self._clip_error
        committed.append_stop()
        self._has_update = True

    def stop(self, now: float) -> None:
        """Stops as soon as the limits allow."""
        commit = self._commit_index(now) * self._period
        if self.committed.tracking_end > commit:
            self.committed.truncate(commit)
            self.committed.append_stop()
            self._has_update = True

    def setpoints(self, now: float) -> list[tuple[float, MotionState]]:
        """Times [s] and states of the set-points that became final since the last call."""
        commit = self._commit_index(now)
        new = [i * self._period for i in range(self._n_final + 1, commit + 1)]
        final = [(self.origin + t, self.committed.state_at(t)) for t in new]
        self._n_final = max(commit, self._n_final)
        self.committed.drop_before((commit - self._lead_steps - 1) * self._period)
        # A grid that was aligned anew may overlap with the one before.
        final = [(t, state) for t, state in final if t > self._last_setpoint_at]
        if final:
            self._last_setpoint_at = final[-1][0]
        return final

    def trajectory_update(self, now: float) -> JointTrajectory | None:
        """The trajectory to send at `now` [s] if it changed since the last call, else None."""
        if not self._has_update and now > self._repeat_until:
            return None
        self._has_update = False
        return self.trajectory(now + TRANSIT_S)

    def discard_update(self) -> None:
        """Discards the changes since the last `trajectory_update`; they are not sent."""
        self._has_update, self._repeat_until = False, -np.inf

    def skip_setpoints(self, now: float) -> None:
        """Leaves out the set-points before `now` [s]."""
        self._n_final = max(self._commit_index(now) - 1, self._n_final)

    def trajectory(self, now: float) -> JointTrajectory:
        """The committed trajectory from `now` [s] on, a single point if the arm is at rest."""
        if self.committed.end <= now - self.origin:
            rest = MotionState.at_rest(self.rest_positions()[None])
            return JointTrajectory(
                max(self.commit_time(now), self._settled_at), np.zeros(1), *rest
            )
        trajectory = self.committed.trajectory(now - self.origin)
        return replace(trajectory, stamp=self.origin + trajectory.stamp)

    def _may_track(self, state: MotionState, until: float, goal: TrackingGoal) -> bool:
        """Whether one more tracking period from `state`, ending at `until` [s] after the origin,
        leaves enough time before the end of the goal."""
        left = goal.end - self.origin - until
        if not goal.stops_by_end or left > LONGEST_STOP_S:
            return left >= -1e-6
        return left >= self._limiter.stop_profile(state).duration

    def _commit_index(self, now: float) -> int:
        return round((now - self.origin) / self._period) + self._lead_steps


def with_planning_margins(spec: RobotSpec) -> RobotSpec:
    """`spec` with the reduced velocity, acceleration and jerk limits that planning uses."""
    joints = []
    for joint in spec.joints:
        velocity = PLANNING_SHARES["velocity"] * joint.velocity
        acceleration = min(
            PLANNING_SHARES["acceleration"] * joint.acceleration, velocity / RISE_S["velocity"]
        )
        jerk = min(PLANNING_SHARES["jerk"] * joint.jerk, acceleration / RISE_S["acceleration"])
        joints.append(replace(joint, velocity=velocity, acceleration=acceleration, jerk=jerk))
    return replace(spec, joints=tuple(joints))
