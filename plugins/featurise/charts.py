"""Small charts as SVG text, for pages that load nothing from anywhere."""

from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT, FOOT = 560, 140, 18


def bars(values: Sequence[tuple[str, float, float]], *, mine: str, theirs: str) -> Markup:
    """Pairs of bars: each value is a label, this run's height, and the earlier ones' height."""
    if not values:
        return Markup("")
    highest = max(max(one, other) for _, one, other in values) or 1.0
    slot = WIDTH / len(values)
    every = max(1, len(values) // 12)
    parts = []
    for position, (label, one, other) in enumerate(values):
        left = position * slot
        title = f"<title>{escape(label)}: {one:.4g} ({escape(mine)}), {other:.4g} ({escape(theirs)})</title>"
        parts.append(
            f"<g>{title}{_bar('before', left, slot, other / highest)}{_bar('now', left, slot, one / highest)}</g>"
        )
        if position % every == 0:
            parts.append(f'<text x="{left + slot / 2:.1f}" y="{HEIGHT - 4}">{escape(label)}</text>')
    return Markup(f'<svg class="bars" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>')  # noqa: S704


def _bar(kind: str, left: float, slot: float, share: float) -> str:
    height = share * (HEIGHT - FOOT)
    wide = slot * (0.8 if kind == "before" else 0.5)
    x, y = left + (slot - wide) / 2, HEIGHT - FOOT - height
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{height:.1f}"/>'


def line(values: Sequence[tuple[str, float]]) -> Markup:
    """A line through values in their order, each with its label on hovering."""
    if not values:
        return Markup("")
    highest = max(value for _, value in values) or 1.0
    step = WIDTH / max(len(values) - 1, 1)
    points = [(i * step, (HEIGHT - FOOT) * (1 - value / highest) + 4) for i, (_, value) in enumerate(values)]
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(label)}: {value:.4g}</title></circle>'
        for (x, y), (label, value) in zip(points, values, strict=True)
    )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    first, last = escape(values[0][0]), escape(values[-1][0])
    return Markup(  # noqa: S704
        f'<svg class="line" viewBox="-4 0 {WIDTH + 8} {HEIGHT}" role="img"><polyline points="{path}"/>{dots}'
        f'<text x="0" y="{HEIGHT - 4}" text-anchor="start">{first}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{last}</text></svg>'
    )
