"""What runs inside vLLM's processes: they end with the process that started them, even when that one was killed."""

import multiprocessing
import os
import signal
import threading
from importlib.metadata import entry_points

GROUP = "vllm.general_plugins"
NAME = "oprime_end_with_parent"
SWITCH = "OPRIME_END_WITH_PARENT"
"""Environment variable that the generator sets, so that other uses of vLLM on the machine are left alone."""


def end_with_parent() -> None:
    """Wait, in a thread, for the parent to end; then end this process at once. Nothing in it outlives a request."""
    parent = multiprocessing.parent_process()
    if parent is None or os.environ.get(SWITCH) != "1":
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def is_registered() -> bool:
    """Whether vLLM will find this module: false in a stale editable install."""
    return any(entry.name == NAME for entry in entry_points(group=GROUP))
