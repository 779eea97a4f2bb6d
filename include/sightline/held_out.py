"""Which images of the train split a fine-tuning validates with, where there is no val split."""

import hashlib


def is_held_out(group_id: str, share: float) -> bool:
    """Whether a near-duplicate group of the train split validates: by its hash, the same for ever."""
    digest = hashlib.sha256(f"validation/{group_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share
