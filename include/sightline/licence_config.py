"""The `licences:` block of a dataset file: which licences an image may be held under."""

from fnmatch import fnmatchcase
from typing import Literal

from sightline.source_config import Section


class LicencesSpec(Section):
    """Names of licences as the source gives them; `*` stands for anything, capitals count for nothing.

    An image is taken where `allow` names its licence and `deny` does not. Checked before it is fetched,
    and again at each listing: `withdrawn` says what becomes of an image whose licence is not allowed any
    more.
    """

    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    unknown: Literal["allow", "reject"] = "allow"  # where the source names none
    withdrawn: Literal["quarantine", "take_down"] = "quarantine"

    @property
    def allows_all(self) -> bool:
        """Whether no licence is refused."""
        return "*" in self.allow and not self.deny and self.unknown == "allow"

    def allows(self, licence: str | None) -> bool:
        """Whether an image under this licence may be held."""
        if not licence:
            return self.unknown == "allow"
        return _names(self.allow, licence) and not _names(self.deny, licence)


def _names(patterns: tuple[str, ...], licence: str) -> bool:
    return any(fnmatchcase(licence.casefold(), pattern.casefold()) for pattern in patterns)
