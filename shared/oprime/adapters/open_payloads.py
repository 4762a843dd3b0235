"""Opens the store of payloads that a run's settings name."""

from oprime.adapters.directory_payloads import DirectoryPayloads
from oprime.adapters.redis_payloads import RedisPayloads
from oprime.ports import Payloads
from oprime.runtime.settings import PayloadsSection, QueueSection


def open_payloads(section: PayloadsSection, queue: QueueSection, run: str) -> Payloads:
    """The payloads of a run: in the queue's server, or in the folder `run` of a directory or URL.

    Opens no connection yet. Raises SettingsError for an unusable address, and where the package for a URL is missing.
    """
    if section.store == "redis":
        return RedisPayloads.of_run(queue, run)
    if section.directory is not None:
        return DirectoryPayloads(section.directory / run)
    # Services that need no URL are installed without fsspec.
    from oprime.adapters.url_payloads import UrlPayloads

    return UrlPayloads(f"{section.store.rstrip('/')}/{run}")
