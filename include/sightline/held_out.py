"""Which images of the train split a fine-tuning validates with, where there is no val split."""

from sightline.hashing import place_of


def is_held_out(group_id: str, share: float) -> bool:
    """Whether a near-duplicate group of the train split validates: by its hash, the same for ever."""
    return place_of(f"validation/{group_id}") < share
