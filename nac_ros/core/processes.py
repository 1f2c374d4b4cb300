"""Set-up of worker processes."""

import os
import signal
import threading
from multiprocessing import parent_process


def set_up_worker() -> None:
    """Ignores Ctrl-C, which the parent handles, and ends this process when the parent has ended,
    also if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
