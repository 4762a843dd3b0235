"""What a model on Hugging Face's hub is called."""

import re

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_hub_id(text: str) -> bool:
    """Whether OWNER/NAME, or the NAME of a model without owner, could be on the hub."""
    return _HUB_ID.fullmatch(text) is not None
