"""What a first look at a source tells."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Survey:
    """Images by class, and their bytes where the source knows them before it is asked for them."""

    images_by_class: dict[str, int]
    size_bytes: int | None = None

    @property
    def images(self) -> int:
        """Images in all."""
        return sum(self.images_by_class.values())
