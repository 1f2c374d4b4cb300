"""Set-up of worker processes, which end with their parent."""

import os
import signal
import threading
from multiprocessing import parent_process


def set_up_worker() -> None:
    """Leaves Ctrl-C to the writing process, and ends with it even when that one is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
