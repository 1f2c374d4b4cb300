"""Every error that nac_ros raises on purpose; each message names thing, value and fix."""


class NacError(Exception):
    """Base of all; the command line prints it as one sentence and exits with 2."""


class ConfigError(NacError):
    """A configuration holds an unknown key, a wrong type or a value out of range."""


class UnknownName(NacError):
    """A registry, task, robot or preset was asked for a name that it does not have."""


class BadActions(NacError):
    """Actions of the wrong shape, dtype or value (NaN, inf) reached a tokenizer or a policy."""


class BadObservation(NacError):
    """An observation is incomplete, stale, non-finite or of another shape than expected.

    reason: a short code for counters, beside the sentence for people
    """

    def __init__(self, text: str, reason: str = "observation"):
        super().__init__(text)
        self.reason = reason


class BadInput(NacError):
    """What a hand's device sent is incomplete, not finite or not what its mapping reads."""


class BadTokens(NacError):
    """A token sequence has the wrong length, range, order or dtype; it is never repaired."""


class NotFitted(NacError):
    """A tokenizer was used before `fit` or `load_tokenizer` gave it statistics."""


class BundleError(NacError):
    """A bundle is incomplete, altered, of another version, or fails its golden vectors."""


class DatasetError(NacError):
    """A dataset folder is missing, incomplete or lacks a column."""


class CameraError(NacError):
    """A camera cannot be opened, is gone, or shows something other than what was asked for."""


class SimulationError(NacError):
    """The simulator cannot run here (no GL, assets missing) or a scene is impossible."""


class TrialError(NacError):
    """A frozen protocol was changed, a trials' log is damaged, or a trial cannot be judged now."""
