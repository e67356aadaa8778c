"""Small charts as SVG text, for pages that load nothing from anywhere."""

from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT, HEAD, FOOT = 360, 150, 14, 16
WIDEST_BAR = 48
LABELS = 9
"""Labels that fit below a chart."""


def bars(values: Sequence[tuple[str, float, float]], *, mine: str, theirs: str) -> Markup:
    """Pairs of bars: each value is a label, this run's share, and the earlier ones' share."""
    if not values:
        return Markup("")
    highest = max(max(one, other) for _, one, other in values) or 1.0
    slot = WIDTH / len(values)
    every = -(-len(values) // LABELS)
    parts = [_text(0, HEAD - 4, f"{highest:.0%}", "start")]
    for position, (label, one, other) in enumerate(values):
        middle = (position + 0.5) * slot
        title = f"<title>{escape(label)}: {one:.2%} ({escape(mine)}), {other:.2%} ({escape(theirs)})</title>"
        spec = _bar("before", middle, 0.8 * slot, other / highest) + _bar("now", middle, 0.5 * slot, one / highest)
        parts.append(f"<g>{title}{spec}</g>")
        if position % every == 0:
            parts.append(_text(middle, HEIGHT - 4, label, "middle"))
    return _svg("bars", parts)


def line(values: Sequence[tuple[str, float]]) -> Markup:
    """A line through values in their order, from zero up; each tells its label on hovering."""
    if not values:
        return Markup("")
    highest = max(value for _, value in values) or 1.0
    step = WIDTH / max(len(values) - 1, 1)
    points = [(i * step, HEAD + (HEIGHT - FOOT - HEAD) * (1 - value / highest)) for i, (_, value) in enumerate(values)]
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(label)}: {value:.4g}</title></circle>'
        for (x, y), (label, value) in zip(points, values, strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    ends = [_text(0, HEIGHT - 4, values[0][0], "start")]
    if len(values) > 1:
        ends.append(_text(WIDTH, HEIGHT - 4, values[-1][0], "end"))
    return _svg("line", [_text(0, HEAD - 4, f"{highest:.4g}", "start"), f'<polyline points="{path}"/>', *dots, *ends])


def _bar(kind: str, middle: float, width: float, share: float) -> str:
    width = min(width, WIDEST_BAR if kind == "before" else 0.6 * WIDEST_BAR)
    height = share * (HEIGHT - FOOT - HEAD)
    y = HEIGHT - FOOT - height
    return f'<rect class="{kind}" x="{middle - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(kind: str, parts: Sequence[str]) -> Markup:
    box = f"-6 0 {WIDTH + 12} {HEIGHT}"
    return Markup(f'<svg class="{kind}" viewBox="{box}" role="img">{"".join(parts)}</svg>')  # noqa: S704
