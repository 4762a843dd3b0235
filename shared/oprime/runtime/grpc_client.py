"""Channels to other services."""

import grpc

from oprime.runtime.grpc_server import CHANNEL_OPTIONS

_RETRY_UNAVAILABLE = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s",
"maxBackoff": "2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""


def connect(address: str) -> grpc.aio.Channel:
    """Open a channel that spreads calls over all addresses of a name and retries only UNAVAILABLE."""
    return grpc.aio.insecure_channel(
        address,
        options=(
            *CHANNEL_OPTIONS,
            ("grpc.service_config", _RETRY_UNAVAILABLE),
            ("grpc.lb_policy_name", "round_robin"),
            # A service that has just started is found within the retries above, not after gRPC's first second of waiting.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 5000),
        ),
    )
