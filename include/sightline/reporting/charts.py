"""Geometry of the plots: numbers in, SVG coordinates out; the template writes them down."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from math import floor, log10, sqrt

WIDTH, HEIGHT = 420, 250  # of the viewBox
LEFT, RIGHT, TOP, BOTTOM = 50, 406, 18, 206  # of the plot inside it
MAX_BARS = 60
MAX_POINTS = 240


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    position: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A plot in the coordinates of its viewBox."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: list[tuple[float, float, float, float]] = field(
        default_factory=list
    )  # x, y, width, height
    line: str = ""  # points of a polyline
    area: str = ""  # points of the polygon under it
    guide: str = ""  # points of a dashed polyline
    dots: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, radius
    mark: tuple[float, float] | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def each_component(ratios: list[float]) -> Chart:
    """Share of the variance that each component explains: bars, or a line for many of them."""
    ticks = ticks_up_to(max(ratios))
    top = max(ticks[-1], max(ratios))
    x_ticks = _component_ticks(len(ratios))
    y_ticks = [Tick(_y(value, top), _percent_tick(value, ticks[1])) for value in ticks]
    if len(ratios) > MAX_BARS:
        line = _line(ratios, top)
        first, last = _x(0, len(ratios)), _x(len(ratios) - 1, len(ratios))
        area = f"{first:.1f},{BOTTOM} {line} {last:.1f},{BOTTOM}"
        return Chart(x_ticks, y_ticks, line=line, area=area)
    slot = (RIGHT - LEFT) / len(ratios)
    thickness = min(24.0, max(slot * 0.5, slot - 2))
    bars = [
        (_x(i, len(ratios)) - thickness / 2, _y(ratio, top), thickness, BOTTOM - _y(ratio, top))
        for i, ratio in enumerate(ratios)
    ]
    return Chart(x_ticks, y_ticks, bars=bars)


def together(ratios: list[float], chosen: int) -> Chart:
    """Share of the variance that the first components explain together, the chosen count marked."""
    totals = list(accumulate(ratios))
    y_ticks = _quarters(lambda share: _y(share, 1.0))
    last = min(chosen, len(totals)) - 1
    mark = (_x(last, len(totals)), _y(min(1.0, totals[last]), 1.0))
    return Chart(_component_ticks(len(totals)), y_ticks, line=_line(totals, 1.0), mark=mark)


def reliability(bins: list[tuple[float, float, float]]) -> Chart:
    """How often a model is right beside how sure it is, from each bin's confidence, accuracy and images;
    on the diagonal both are the same. The more images, the larger the dot."""
    most = max(images for _, _, images in bins)
    dots = [
        (_across(confidence), _y(accuracy, 1.0), 3.0 + 4.0 * sqrt(images / most))
        for confidence, accuracy, images in bins
    ]
    return Chart(
        x_ticks=_quarters(_across),
        y_ticks=_quarters(lambda share: _y(share, 1.0)),
        guide=_points([(_across(0.0), _y(0.0, 1.0)), (_across(1.0), _y(1.0, 1.0))]),
        dots=dots,
    )


def by_epoch(train: list[float], validation: list[float], kept: int) -> Chart:
    """Train values as a line, validation values as a dashed one; the kept epoch (from 1) is marked."""
    ticks = ticks_up_to(max(*train, *validation))
    top, count = ticks[-1], len(train)
    points = [(_x(index, count), _y(value, top)) for index, value in enumerate(validation)]
    return Chart(
        x_ticks=_component_ticks(count),
        y_ticks=[Tick(_y(tick, top), f"{tick:g}") for tick in ticks],
        line=_line(train, top),
        guide=_points(points),
        mark=points[kept - 1],
    )


def against(counts: list[int], values: list[float], ideal: list[float]) -> Chart:
    """Values as a line with dots over counts, and beside it dashed what would be ideal."""
    ticks = ticks_up_to(max(*values, *ideal))
    top, widest = ticks[-1], max(counts)
    places = [_across(count / widest * 0.94) for count in counts]
    points, dashed = (
        [(x, _y(value, top)) for x, value in zip(places, row, strict=True)]
        for row in (values, ideal)
    )
    return Chart(
        x_ticks=[Tick(x, f"{count}") for x, count in zip(places, counts, strict=True)],
        y_ticks=[Tick(_y(tick, top), f"{tick:,g}") for tick in ticks],
        line=_points(points),
        guide=_points(dashed),
        dots=[(x, y, 4.5) for x, y in points],
    )


def by_number(values: list[float]) -> Chart:
    """Shares from 0 to 1 as dots, one a number from 1."""
    count = len(values)
    dots = [(_x(index, count), _y(value, 1.0), 4.0) for index, value in enumerate(values)]
    y_ticks = _quarters(lambda share: _y(share, 1.0))
    return Chart(x_ticks=_component_ticks(count), y_ticks=y_ticks, dots=dots)


def histogram(counts: list[int]) -> Chart:
    """Images in each of the bins that share 0 to 1 between them."""
    ticks = [tick for tick in ticks_up_to(max(counts)) if tick % 1 == 0]
    top, slot = max(ticks[-1], max(counts)), (RIGHT - LEFT) / len(counts)
    bars = [
        (LEFT + index * slot + 1, _y(count, top), slot - 2, BOTTOM - _y(count, top))
        for index, count in enumerate(counts)
        if count
    ]
    y_ticks = [Tick(_y(tick, top), f"{tick:,.0f}") for tick in ticks]
    return Chart(_quarters(_across), y_ticks, bars=bars)


def ticks_up_to(largest: float, most: int = 5) -> list[float]:
    """Round values from 0 to at least the largest, in at most so many steps."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / most
    ten = 10.0 ** floor(log10(rough))
    step = next(ten * factor for factor in (1, 2, 5, 10) if ten * factor >= rough * (1 - 1e-9))
    count = 0
    while step * count < largest * (1 - 1e-9):
        count += 1
    return [step * index for index in range(count + 1)]


def _component_ticks(count: int) -> list[Tick]:
    """The first component, the last, and round ones between that leave them room."""
    between = [round(value) for value in ticks_up_to(count) if value % 1 == 0]
    room = max(1, count // 12)
    kept = [value for value in between if 1 + room <= value <= count - room]
    return [Tick(_x(value - 1, count), f"{value:,}") for value in sorted({1, *kept, count})]


def _quarters(place: Callable[[float], float]) -> list[Tick]:
    return [Tick(place(quarter / 4), f"{quarter * 25}%") for quarter in range(5)]


def _across(share: float) -> float:
    return LEFT + share * (RIGHT - LEFT)


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(values: list[float], top: float) -> str:
    count = len(values)
    drawn = min(count, MAX_POINTS)
    indices = sorted({round(i * (count - 1) / max(1, drawn - 1)) for i in range(drawn)})
    return " ".join(f"{_x(i, count):.1f},{_y(min(values[i], top), top):.1f}" for i in indices)


def _x(index: int, count: int) -> float:
    """The middle of a component's slot."""
    return LEFT + (index + 0.5) * (RIGHT - LEFT) / count


def _y(value: float, top: float) -> float:
    return BOTTOM - value / top * (BOTTOM - TOP)


def _percent_tick(value: float, step: float) -> str:
    digits = max(0, -floor(log10(step * 100) + 1e-9))
    return f"{value * 100:.{digits}f}%"
