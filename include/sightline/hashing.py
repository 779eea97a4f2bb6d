"""A fixed place for each text, so that a share of all texts stays the same whatever others come."""

import hashlib


def place_of(text: str) -> float:
    """A text's place in 0..1: even among many texts, and the same for ever."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_held_out(group_id: str, share: float) -> bool:
    """Whether a near-duplicate group of the train split validates a fine-tuning: by its hash, so for good."""
    return place_of(f"validation/{group_id}") < share
