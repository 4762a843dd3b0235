"""Signatures of webhook requests: HMAC-SHA256 over timestamp and body, so that a request can be neither forged nor replayed later."""

import hashlib
import hmac

TIMESTAMP_HEADER = "X-Oprime-Timestamp"
SIGNATURE_HEADER = "X-Oprime-Signature"
VERSION = "v1"
MAX_AGE_S = 300


def sign(secret: bytes, timestamp: int, body: bytes) -> str:
    """The value of SIGNATURE_HEADER for a request made at `timestamp`, in Unix seconds."""
    return f"{VERSION}={hmac.new(secret, f'{timestamp}.'.encode() + body, hashlib.sha256).hexdigest()}"


def is_signed(secret: bytes, timestamp: str, signature: str, body: bytes, *, now: float, max_age_s: float = MAX_AGE_S) -> bool:
    """Whether a request is from somebody who knows `secret`, and recent. For the webhook's side."""
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now - int(timestamp)) > max_age_s:
        return False
    return hmac.compare_digest(sign(secret, int(timestamp), body).encode(), signature.encode())
