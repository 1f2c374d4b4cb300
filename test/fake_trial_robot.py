"""A robot whose behaviour a test decides, and workers that run now or when the test wants it."""

import numpy as np

from nac_ros.core.errors import NacError
from nac_ros.trials.trial_robot import RecordingResult, TrialStatus

IMAGE = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)


class FakeTrialRobot:
    """Records its calls.

    failures: method -> error text with which it fails; blocking: what `blockers` returns
    """

    def __init__(self):
        self.calls, self.failures, self.blocking = [], {}, []
        self.steps, self.image, self.metadata = 0, IMAGE, {}

    def _call(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name in self.failures:
            raise NacError(self.failures[name])

    def prepare(self, bundle, slot):
        self._call("prepare", bundle, slot.index)

    def start(self, slot, metadata):
        self.metadata = metadata
        self._call("start", slot.index)

    def stop(self):
        self._call("stop")

    def finish_recording(self, outcome):
        self._call("finish_recording", outcome)
        return RecordingResult(f"/elsewhere/recordings/{len(self.calls)}", 0.1, -2.5)

    def abort(self):
        self._call("abort")

    def reset_guard(self):
        self._call("reset_guard")

    def blockers(self):
        return list(self.blocking)

    def messages(self):
        return ["guard: idle"]

    def image_ages(self):
        return {"scene": 0.0}

    def latest_image(self, camera):
        return self.image

    def status(self):
        return TrialStatus(
            steps=self.steps,
            seconds=self.steps / 30,
            chunk_ms=(40.0, 42.0),
            clips=3,
            transition_jumps=(0.01,),
        )

    def detected_outcome(self):
        return "failure, it is next to the bin"

    def called(self):
        """Names of the called methods, in order."""
        return [name for name, *_ in self.calls]


class ImmediateWorker:
    """Runs each call before `submit` returns."""

    def submit(self, call):
        call()


class QueueWorker:
    """Runs the submitted calls when the test calls `work`."""

    def __init__(self):
        self.waiting = []

    def submit(self, call):
        self.waiting.append(call)

    def work(self):
        while self.waiting:
            self.waiting.pop(0)()
