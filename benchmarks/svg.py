"""Small plots as SVG text: bars that lie, for systems side by side, and lines, for growth."""

from collections.abc import Mapping, Sequence
from html import escape

from sightline.reporting.charts import ticks_up_to

WIDTH, ROW, TOP, BOTTOM = 720, 34, 46, 34
NAMES = 320  # pixels for the bars' names, or more where one is longer
LETTER = 7.6  # pixels of a name's letter, at most, on average
VALUES = 90  # pixels for the number beside the longest bar
LINES_HEIGHT, LEFT, RIGHT = 320, 70, 170
OURS, OTHERS, INK, FAINT = "#1f6feb", "#9aa4b2", "#24292f", "#d0d7de"
COLOURS = (OURS, "#d9730d", "#2da44e", "#8250df")


def bars(title: str, values: Mapping[str, float], unit: str, limit: float | None = None) -> str:
    """A bar each, Sightline's in colour; `limit` is a line across them all."""
    top = max([*values.values(), limit or 0.0]) or 1.0
    start = max(NAMES, LETTER * max(map(len, values)) + 20)
    length = WIDTH - start - VALUES
    height = TOP + ROW * len(values) + BOTTOM
    parts = []
    for index, (name, value) in enumerate(values.items()):
        y = TOP + ROW * index
        width = value / top * length
        parts.append(_text(start - 10, y + 20, name, "end"))
        size = f'width="{width:.1f}" height="{ROW - 12}"'
        colour = OURS if name.startswith("Sightline") else OTHERS
        parts.append(f'<rect x="{start:g}" y="{y + 5}" {size} fill="{colour}"/>')
        parts.append(_text(start + width + 6, y + 20, shown(value)))
    if limit is not None:
        x = start + limit / top * length
        parts.append(_line(x, TOP, x, height - BOTTOM, INK, dashed=True))
        parts.append(_text(x, height - BOTTOM + 16, f"limit {shown(limit)}", "middle"))
    return _svg(height, f"{title} ({unit})", parts)


def lines(title: str, x_title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A line for each series from (0, 0) on, its name at its end."""
    x_ticks = ticks_up_to(max(x for points in series.values() for x, _ in points))
    y_ticks = ticks_up_to(max(y for points in series.values() for _, y in points))
    bottom, width = LINES_HEIGHT - 50, WIDTH - LEFT - RIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / x_ticks[-1] * width, bottom - y / y_ticks[-1] * (bottom - TOP)

    parts = []
    for tick in y_ticks:
        y = place(0, tick)[1]
        parts += [
            _line(LEFT, y, LEFT + width, y, FAINT),
            _text(LEFT - 8, y + 5, shown(tick), "end"),
        ]
    for tick in x_ticks:
        parts.append(_text(place(tick, 0)[0], bottom + 20, f"{tick:,.0f}", "middle"))
    parts.append(_text(LEFT + width / 2, bottom + 42, x_title, "middle"))
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        placed = [place(x, y) for x, y in points]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(placed[-1][0] + 10, placed[-1][1] + 5, name))
    return _svg(LINES_HEIGHT, title, parts)


def shown(value: float) -> str:
    """Three digits are what the measuring is good for."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _svg(height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="14" role="img">'
    )
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    heading = f'<text x="12" y="26" font-weight="600" fill="{INK}">{escape(title)}</text>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, heading, *parts, "</svg>\n"])


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}"{dashes}/>'
