"""Numbers, times and names as a person reads them."""

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import unquote

NOTHING = "–"


def number(value: float | None) -> str:
    """A count with thousands separators: 1,797."""
    return NOTHING if _is_absent(value) else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of digits after the point: 0.984."""
    return NOTHING if _is_absent(value) else f"{value:,.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage that says 0 or 100 only where it is exactly that."""
    if share is None or math.isnan(share):
        return NOTHING
    smallest = 10.0**-digits
    if 0 < share * 100 < smallest / 2:
        return f"<{smallest:.{digits}f}%"
    if 100 - smallest / 2 <= share * 100 < 100:
        return f">{100 - smallest:.{digits}f}%"
    return f"{share * 100:.{digits}f}%"


def duration(seconds: float) -> str:
    """A time that was taken: 3.2 s, 45 s, 12 min 5 s, 1 h 12 min."""
    if seconds < 0.05:
        return "<0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def size(size_bytes: float) -> str:
    """A size in decimal units: 812 B, 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} TB"


def date(moment: str) -> str:
    """An ISO moment as 21 November 2026, 10:15 UTC."""
    when = datetime.fromisoformat(moment)
    return f"{when.day} {when:%B %Y, %H:%M} {when:%Z}".strip()


def file_name(uri: str) -> str:
    """The last part of a uri: never its query, its login or its folders, which may hold secrets."""
    path = uri.split("::", 1)[0]
    has_scheme = "://" in path
    path = re.split("[?#]" if has_scheme else "[?]", path.split("://", 1)[-1], maxsplit=1)[0]
    name = path.rstrip("/").rsplit("/", 1)[-1].rsplit("@", 1)[-1]
    return unquote(name) if has_scheme else name


def place(url: str) -> str:
    """A URL without login and query; anything else as it is."""
    if "://" not in url:
        return url
    scheme, rest = re.split("[?#]", url, maxsplit=1)[0].split("://", 1)
    host, *path = rest.split("/")
    return "/".join([f"{scheme}://{host.rsplit('@', 1)[-1]}", *path])


def without_secrets(text: str | None) -> str:
    """A sentence whose URLs have no login and no query."""
    return re.sub(r"\S+://\S+", lambda found: place(found[0]), text or "")


def plural(count: float, one: str, many: str = "") -> str:
    """A count with its noun: 1 image, 1,797 images."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def parameters(entry: dict[str, Any]) -> str:
    """An entry of a head's grid: penalty 0.003, l1 ratio 0.5; or hidden layers 64, 32."""
    return ", ".join(f"{name.replace('_', ' ')} {setting(value)}" for name, value in entry.items())


def natural_order(text: str | None) -> list[Any]:
    """A sort key that puts 9 before 10."""
    parts = re.split(r"(\d+)", (text or "").casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def setting(value: Any) -> str:
    """A value of a setting: 0.003, adamw, or the values of a list."""
    if isinstance(value, list):
        return ", ".join(map(setting, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_absent(value: float | None) -> bool:
    return value is None or math.isnan(value)


FILTERS: dict[str, Callable[..., str]] = {
    "number": number,
    "decimal": decimal,
    "percent": percent,
    "duration": duration,
    "date": date,
    "file_name": file_name,
    "plural": plural,
    "setting": setting,
    "size": size,
    "without_secrets": without_secrets,
}
