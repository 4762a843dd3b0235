"""The model hub, as commands ask it before they start anything: once."""

import socket
from urllib.parse import urlsplit


def ask_only_the_cache_when_away() -> bool:
    """Where the hub's name leads nowhere, take what was fetched before, and fail at once for the rest; returns whether that is so.

    Its client would try each file six times over half a minute, and say so each time. For this process alone.
    """
    from huggingface_hub import constants

    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    return bool(constants.HF_HUB_OFFLINE)
