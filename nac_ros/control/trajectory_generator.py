"""The committed motion: states on a grid of periods, always followed by a stop."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nac_ros.control.checks import check_displaced
from nac_ros.control.controller_reference import approach_s
from nac_ros.control.jerk_limiter import JerkLimiter, MotionSegment
from nac_ros.control.stopping import APART, MotionState, apart
from nac_ros.control.tracking import TrackingController
from nac_ros.core.types import JointTrajectory
from nac_ros.robot.spec import RobotSpec

# [s] The third derivative of a quintic over h seconds between positions that are rounded to e is
# off by 60 e / h^3: 0.03 rad/s^3 at 3 rad in float64, and 10^9 times as much at 0.1 us.
SEGMENT_S = 1e-4


class CommittedTrajectory:
    """Knots of piecewise constant jerk; at rest before the first and after the last.

    `led` is where the led part ends [s] and the stop begins: `lead` replaces the stop by a longer
    led part, `brake` puts one at its end. Whoever cuts at a time leaves all that comes before it
    as it was, so motions that were sent earlier stay true up to there.
    """

    MEMORY = ("led", "_times", "_states")

    def __init__(self, limiter: JerkLimiter, positions: np.ndarray, at: float):
        self._limiter, self.led = limiter, at
        self._times = np.array([at])
        self._states = np.stack(MotionState.rest(positions))[None]  # [N, 3, D]

    @property
    def end(self) -> float:
        """From when on it is at rest [s]."""
        return float(self._times[-1])

    def rests(self, t: float) -> bool:
        """Whether it is at rest at `t` [s] and stays there."""
        return len(self._times) == 1 or self.end <= t

    def at(self, t: float) -> MotionState:
        """What is commanded at `t` [s]: `[D]`."""
        k = int(np.searchsorted(self._times, t, side="right")) - 1
        if k < 0 or k + 1 == len(self._times):
            return MotionState.rest(self._states[max(k, 0), 0])
        span = self._times[k + 1] - self._times[k]
        jerk = (self._states[k + 1, 2] - self._states[k, 2]) / span
        return MotionState(*self._states[k]).after(t - self._times[k], jerk)

    def cut(self, t: float) -> MotionState:
        """Forgets what comes after `t` [s], for a new course from there; the state at `t`."""
        state, kept = self.at(t), self._times < t - APART
        self._times = np.append(self._times[kept], t)
        self._states = np.concatenate([self._states[kept], np.stack(state)[None]])
        self.led = t
        return state

    def lead(self, piece: MotionSegment, until: float) -> MotionState:
        """Goes on after a cut with `piece`, which ends at `until` [s]; the state there."""
        self._append(np.append(self.led + piece.times[:-1], until), np.stack(piece.states, 1))
        self.led = until
        return self.at_end()

    def brake(self) -> None:
        """Ends with the quickest stop from the end of the led part."""
        state = self.at_end()
        if not state.moves:
            return
        brake = self._limiter.brake(state)
        knots = apart(brake.knots())
        states = np.stack(brake.at(knots), 1)
        states[-1, 1:] = 0
        self._append(self.led + knots, states)

    def at_end(self) -> MotionState:
        """The state of the last knot."""
        return MotionState(*self._states[-1])

    def forget(self, before: float) -> None:
        """Drops knots that lie so far back [s] that nobody asks for them again."""
        first = max(int(np.searchsorted(self._times, before, side="right")) - 1, 0)
        self._times, self._states = self._times[first:], self._states[first:]

    def motion(self, after: float) -> JointTrajectory:
        """The knots later than `after` [s], at least the last one, SEGMENT_S apart."""
        first = min(int(np.searchsorted(self._times, after, side="right")), len(self._times) - 1)
        kept = first + _spaced(self._times[first:])
        places, speeds, changes = np.moveaxis(self._states[kept], 1, 0)
        times = self._times[kept]
        return JointTrajectory(float(times[0]), times - times[0], places, speeds, changes)

    def _append(self, times: np.ndarray, states: np.ndarray) -> None:
        self._times = np.concatenate([self._times, times])
        self._states = np.concatenate([self._states, states])


def _spaced(times: np.ndarray) -> np.ndarray:
    """Indices of ascending `times` that lie at least SEGMENT_S apart; the last one is among them.

    A quintic over two knots that are one needs less than twice their jerk.
    """
    kept: list[int] = []
    for i, t in enumerate(times[:-1].tolist()):
        if not kept or t - times[kept[-1]] >= SEGMENT_S:
            kept.append(i)
    if kept and times[-1] - times[kept[-1]] < SEGMENT_S:
        kept.pop()
    return np.array([*kept, len(times) - 1])


Wanted = Callable[[float], MotionState]  # time [s] -> the state that should be commanded then

# A controller takes a trajectory that comes after its first point for one that begins late, so one
# begins with the first point that is at least this far ahead [s]. From where it is when it comes,
# a controller bridges to that point by a motion of its own. Over points that it was not given that
# has more jerk, and a little more acceleration, than the motion itself: 10,000 random sequences of
# the soak run have no more than these shares leave room for.
TRANSIT_S = 0.03
SHARES = {"velocity": 0.998, "acceleration": 0.97, "jerk": 0.5}
# The controller's own motion over those points overshoots by what a joint can change within them.
# So full speed is reached no sooner than this [s], and full acceleration [s]: without both bounds
# a fifth of 60 random robots passed a limit of acceleration by up to 17 %, and with a speed that
# is reached in 0.1 s 2 of 500 passed one of velocity by 0.13 %, in 0.2 s 1 of 1000 by 0.12 %.
RISE_S = {"velocity": 0.2, "acceleration": 0.05}
LONGEST_STOP_S = 2.0  # no need to count how long one takes where more is left
CLIP_SHARE = 0.1  # of one period at full speed (3 mrad): a set-point farther off was held back


class TrackingGoal(NamedTuple):
    """What should be commanded at a time, until when [s], at which share of full speed, and
    whether the arm is to rest by then or to begin to stop."""

    wanted: Wanted
    end: float
    speed: float
    rests_by_end: bool = False


class TrajectoryGenerator:
    """Set-points at origin + k periods; limits hold at every time, also between them.

    What was planned to come before `due(now)` never changes after `now`, so that trajectories
    sent earlier, on their way, or sent late agree with it. `origin` is where its time begins [s].
    """

    MEMORY = (
        "origin", "_count", "_said", "touched", "_held", "clips", "_plan", "_fresh",
        "_approached", "_repeated",
    )  # fmt: skip

    def __init__(self, spec: RobotSpec, lookahead_s: float, lead_s: float):
        gentle = gentler(spec)
        self._spec, self._gentle, self._limiter = spec, gentle, JerkLimiter(gentle)
        self._pursuit = TrackingController(gentle, self._limiter)
        self._low, self._high = spec.position_low, spec.position_high
        self._clip = CLIP_SHARE * spec.velocity_limit / spec.guard_rate_hz
        self._period = 1 / spec.guard_rate_hz
        self._ahead = max(round(lookahead_s / self._period), 1)
        self._lead = max(round(lead_s / self._period), 2)  # to the first set-point that may change
        self.origin, self._count, self._said = 0.0, 0, -np.inf
        self._fresh = False  # whether there are news
        self._plan: CommittedTrajectory | None = None
        self.touched = False  # since it settled
        self._held: np.ndarray | None = None  # the last point that the controllers were told
        self._approached = self._repeated = -np.inf
        self.clips = np.zeros(spec.action_dim, np.int64)

    @property
    def settled(self) -> bool:
        """Whether it knows where the arm is."""
        return self._plan is not None

    @property
    def plan(self) -> CommittedTrajectory:
        """The motion in seconds after the origin."""
        assert self._plan is not None, "settle first"
        return self._plan

    @property
    def held(self) -> np.ndarray | None:
        """The last point that the controllers were told `[D]`, None if they were told nothing."""
        return self.rest() if self.touched else self._held

    def clear(self) -> None:
        """Forgets where the arm is, not what its controllers were told."""
        self._held, self.touched = self.held, False
        self.drop_news()
        self._plan = None

    def settle(self, now: float, measured: np.ndarray) -> None:
        """At rest where the controllers were told to hold an arm that was `measured` `[D]`
        beside it; where it was measured, if they were told nothing or it was moved since."""
        held = self.held
        if held is not None and check_displaced(self._spec, measured, held) is None:
            measured = held
        self.settle_at(now, measured)

    def settle_at(self, now: float, positions: np.ndarray) -> None:
        """At rest at `positions` `[D]`, inside the limits."""
        positions = np.clip(positions, self._low, self._high)
        self._held, self._approached, self._repeated = self.held, -np.inf, -np.inf
        self.origin, self._count = now, 0
        if self._said > now + (self._lead + 1) * self._period:
            self._said = -np.inf  # the clock was set back
        self._plan, self.touched = CommittedTrajectory(self._limiter, positions, 0.0), False

    def approach(self, now: float, measured: np.ndarray) -> None:
        """Brings the controllers' set-point, wherever it is beside the arm that was `measured`
        `[D]`, to where the motion begins; a controller bridges to it by a quintic."""
        if not self.touched:
            self.anchor(now)
        seconds = approach_s(self._gentle, self.rest(), measured, self.held)
        self._repeated = now + TRANSIT_S  # a lost message is made up for
        self._approached = self._repeated + seconds + TRANSIT_S
        self.touched = self._fresh = True

    def approaching(self, now: float) -> bool:
        """Whether the controllers' set-point may still be on its way to the first one."""
        return now < self._approached

    def anchor(self, now: float) -> None:
        """Lays the grid so that a point lies at `now` [s], before anything was commanded."""
        assert not self.touched
        self.origin, self._count = now, self._lead - 1

    def due(self, now: float) -> float:
        """When the first set-point is due [s] that may still change at `now` [s]."""
        return self.origin + self._period * self._index(now)

    def rests(self, now: float) -> bool:
        """Whether the motion is over."""
        return self.plan.rests(now - self.origin) and not self.approaching(now)

    def rested_s(self, now: float) -> float:
        """For how long [s] the motion has been over at `now` [s]; negative while it is not."""
        return now - max(self.origin + self.plan.end, self._approached)

    def at(self, t: float) -> MotionState:
        """What is commanded at `t` [s], `[D]`."""
        return self.plan.at(t - self.origin)

    def rest(self) -> np.ndarray:
        """Where the arm comes to rest, `[D]`."""
        return self.plan.at_end().positions

    def ahead(self) -> np.ndarray:
        """Where the led motion ends, and where the stop after it does, `[2, D]`."""
        return np.stack([self.plan.at(self.plan.led).positions, self.rest()])

    def follow(self, now: float, aim: TrackingGoal, anew: bool) -> None:
        """Leads the motion along what is aimed at, then to rest.

        anew: another aim than last time
        """
        k, plan, wanted = self._index(now), self.plan, aim.wanted
        led = round(plan.led / self._period)
        if anew or led < k:
            led = k
        state = plan.cut(led * self._period)
        self.touched = True
        here = wanted(self.origin + led * self._period)
        while led < k + self._ahead and self._may_lead(state, (led + 1) * self._period, aim):
            led += 1
            ahead = wanted(self.origin + led * self._period)
            piece = self._pursuit.step(state, here, ahead, aim.speed)
            state, here = plan.lead(piece, led * self._period), ahead
            self.clips += np.abs(state.positions - ahead.positions) > self._clip
        plan.brake()
        self._fresh = True

    def stop(self, now: float) -> None:
        """Comes to rest as soon as the limits allow."""
        k = self._index(now)
        if self.plan.led > k * self._period:
            self.plan.cut(k * self._period)
            self.plan.brake()
            self._fresh = True

    def setpoints(self, now: float) -> list[tuple[float, MotionState]]:
        """The set-points that became final since the last call: times [s] and states."""
        k = self._index(now)
        new = range(self._count + 1, k + 1)
        final = [(self.origin + i * self._period, self.plan.at(i * self._period)) for i in new]
        self._count = max(k, self._count)
        self.plan.forget((k - self._lead - 1) * self._period)
        later = [(t, state) for t, state in final if t > self._said]  # a grid laid anew overlaps
        self._said = later[-1][0] if later else self._said
        return later

    def news(self, now: float) -> JointTrajectory | None:
        """What the controllers have to be told at `now` [s]: `motion`, where it has changed."""
        if not self._fresh and now > self._repeated:
            return None
        self._fresh = False
        return self.motion(now + TRANSIT_S)

    def drop_news(self) -> None:
        """What the controllers were not told yet is not told any more."""
        self._fresh, self._repeated = False, -np.inf

    def skip(self, now: float) -> None:
        """Leaves out the set-points up to `now`."""
        self._count = max(self._index(now) - 1, self._count)

    def motion(self, now: float) -> JointTrajectory:
        """What is committed from `now` [s] on, for the controllers; one point at rest."""
        if self.plan.end <= now - self.origin:
            here = MotionState.rest(self.rest()[None])
            return JointTrajectory(max(self.due(now), self._approached), np.zeros(1), *here)
        motion = self.plan.motion(now - self.origin)
        return replace(motion, stamp=self.origin + motion.stamp)

    def _may_lead(self, state: MotionState, until: float, aim: TrackingGoal) -> bool:
        """Whether a period from `state` that ends at `until` is in time."""
        left = aim.end - self.origin - until
        if not aim.rests_by_end or left > LONGEST_STOP_S:
            return left >= -1e-6
        return left >= self._limiter.brake(state).duration

    def _index(self, now: float) -> int:
        return round((now - self.origin) / self._period) + self._lead


def gentler(spec: RobotSpec) -> RobotSpec:
    """The robot with the part of its limits that motion is planned with."""
    joints = []
    for joint in spec.joints:
        velocity = SHARES["velocity"] * joint.velocity
        rise = velocity / RISE_S["velocity"]
        acceleration = min(SHARES["acceleration"] * joint.acceleration, rise)
        jerk = min(SHARES["jerk"] * joint.jerk, acceleration / RISE_S["acceleration"])
        joints.append(replace(joint, velocity=velocity, acceleration=acceleration, jerk=jerk))
    return replace(spec, joints=tuple(joints))
