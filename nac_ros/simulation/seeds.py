"""Which scene a trial has: the same for every method that is compared on it."""

import hashlib


def scene_seed(task: str, seed: int, trial: int) -> int:
    """The scene of trial `trial` of seed `seed`, from 0 to 2^63 - 1."""
    digest = hashlib.sha256(f"{task}/{seed}/{trial}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
