"""A thread of its own for a model's passes."""

from concurrent.futures import ThreadPoolExecutor

import torch


def computing_thread(name: str) -> ThreadPoolExecutor:
    """One thread, in which torch uses as many CPU threads as the process has set when the first work is there.

    OpenMP keeps that number for each thread apart: in a new one matrix products take what the environment says until torch is asked.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=name, initializer=_take_over)


def _take_over() -> None:
    torch.set_num_threads(torch.get_num_threads())
