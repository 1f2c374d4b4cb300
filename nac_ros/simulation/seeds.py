"""Scene seeds of trials: equal for all methods that are compared."""

import hashlib


def scene_seed(task: str, seed: int, trial: int) -> int:
    """Seed of the scene of trial `trial` in the run with seed `seed`, from 0 to 2^63 - 1."""
    digest = hashlib.sha256(f"{task}/{seed}/{trial}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
