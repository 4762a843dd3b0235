"""Fingerprints of what a row of an output answers: they tell whether it still holds when the input or the options may have changed."""

import hashlib
import json


def fingerprint_of(*parts: object) -> str:
    """Equal for equal JSON values, whatever the order of their fields."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
