"""An arm of which a test decides what it does, and workers that a test lets work."""

import numpy as np

from nac_ros.core.errors import NacError
from nac_ros.trials.trial_robot import RecordingResult, TrialStatus

PICTURE = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)


class StandIn:
    """Remembers what it was asked; `refuses` maps a method to the sentence it fails with."""

    def __init__(self):
        self.asked, self.refuses, self.lacks = [], {}, []
        self.steps, self.image, self.facts = 0, PICTURE, {}

    def _take(self, name, *arguments):
        self.asked.append((name, *arguments))
        if name in self.refuses:
            raise NacError(self.refuses[name])

    def prepare(self, source, slot):
        self._take("prepare", source, slot.index)

    def start(self, slot, facts):
        self.facts = facts
        self._take("start", slot.index)

    def stop(self):
        self._take("stop")

    def keep(self, outcome):
        self._take("keep", outcome)
        return RecordingResult(f"/elsewhere/recordings/{len(self.asked)}", 0.1, -2.5)

    def abort(self):
        self._take("abort")

    def release(self):
        self._take("release")

    def missing(self):
        return list(self.lacks)

    def words(self):
        return ["guard: idle"]

    def ages(self):
        return {"scene": 0.0}

    def picture(self, camera):
        return self.image

    def told(self):
        return TrialStatus(steps=self.steps, seconds=self.steps / 30, plan_ms=(40.0, 42.0), clips=3,
                    jumps=(0.01,))  # fmt: skip

    def judged(self):
        return "failure, it lies beside the bin"

    def names(self):
        return [name for name, *_ in self.asked]


class AtOnce:
    """Does what it is given before it returns."""

    def submit(self, call):
        call()


class Later:
    """Does what it was given when it is told to."""

    def __init__(self):
        self.waiting = []

    def submit(self, call):
        self.waiting.append(call)

    def work(self):
        while self.waiting:
            self.waiting.pop(0)()
