"""A line of a few numbers, small enough to stand in a sentence."""

from dataclasses import dataclass

WIDTH, HEIGHT, MARGIN = 96.0, 28.0, 3.0  # of the drawing's own units


@dataclass(frozen=True)
class Sparkline:
    """The points of a line, for an SVG of WIDTH by HEIGHT."""

    points: str
    last: tuple[float, float]


def draw_sparkline(values: tuple[float, ...]) -> Sparkline | None:
    """A line through values, the lowest at the bottom and the highest at the top; None of fewer than two."""
    if len(values) < 2:
        return None
    low, high = min(values), max(values)
    step = (WIDTH - 2 * MARGIN) / (len(values) - 1)
    rise = (HEIGHT - 2 * MARGIN) / (high - low) if high > low else 0.0
    middle = HEIGHT / 2 if high == low else HEIGHT - MARGIN
    places = [
        (MARGIN + index * step, middle - (value - low) * rise) for index, value in enumerate(values)
    ]
    return Sparkline(" ".join(f"{x:.1f},{y:.1f}" for x, y in places), places[-1])
