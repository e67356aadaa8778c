"""Charts as SVG for pages that load nothing from anywhere and run no script; the page's style has their colours.

The page says in CSS what `--ink`, `--soft`, `--now` and `--before` are, so that charts follow it into the dark.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pygal
from markupsafe import Markup
from pygal.etree import etree
from pygal.style import Style

WIDTH, HEIGHT = 480, 200
ROW = 22
"""Height of a pair of bars that lie."""
LABELS = 7
"""Labels that fit below a chart."""
DAY = re.compile(r"^\d{4}-(\d\d-\d\d)$")
SERIES = ("#2a78d6", "#c4491d", "#8a94a3", "#1a8a63", "#8a5fd0", "#a8780a", "#c2417f", "#0f8fa3")
"""For parts that are stacked; told apart by those who see colours otherwise, too, and by their titles."""


def bars(values: Sequence[tuple[str, float, float]], *, mine: str, theirs: str, title: str) -> Markup:
    """Pairs of bars: each value is a label, this run's share, and the earlier ones' share."""
    if not values:
        return Markup("")
    chart = pygal.Bar(**_options(title, ("var(--before)", "var(--now)")), value_formatter=lambda value: f"{value:.1%}")
    _label(chart, [label for label, *_ in values])
    chart.add(theirs, [{"value": other, "label": label} for label, _, other in values])
    chart.add(mine, [{"value": one, "label": label} for label, one, _ in values])
    return _svg(chart, title)


def ranked(values: Sequence[tuple[str, float, float]], *, mine: str, theirs: str, title: str) -> Markup:
    """Pairs of lying bars, the first at the top, each with its whole label; values as those of `bars`."""
    if not values:
        return Markup("")
    options = _options(title, ("var(--before)", "var(--now)")) | {"height": 40 + ROW * len(values)}
    chart = pygal.HorizontalBar(**options, value_formatter=lambda value: f"{value:.1%}")
    upwards = values[::-1]
    chart.x_labels, chart.truncate_label = [label for label, *_ in upwards], 24
    chart.add(theirs, [{"value": other, "label": label} for label, _, other in upwards])
    chart.add(mine, [{"value": one, "label": label} for label, one, _ in upwards])
    return _svg(chart, title)


def line(
    values: Sequence[tuple[str, float]],
    *,
    title: str,
    limits: Mapping[str, float] | None = None,
    from_zero: bool = True,
) -> Markup:
    """A line through values in their order, with dashed ones at limits; by default the axis begins at zero."""
    if not values:
        return Markup("")
    dashed = limits or {}
    options = _options(title, ("var(--now)", *("var(--warn)" for _ in dashed))) | {"include_x_axis": from_zero}
    if not from_zero:
        options["range"] = _around([value for _, value in values] + list(dashed.values()))
    chart = pygal.Line(**options, value_formatter=lambda value: f"{value:.4g}", dots_size=3)
    _label(chart, [label for label, _ in values])
    chart.add(title, [{"value": value, "label": label} for label, value in values])
    for name, limit in dashed.items():
        told = [{"value": limit, "label": name} for _ in values]
        chart.add(name, told, dots_size=1, stroke_style={"dasharray": "4, 4"})
    return _svg(chart, title)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """The axis that shows how values differ."""
    margin = (max(values) - min(values)) / 20 or abs(max(values)) / 20 or 1.0
    return min(values) - margin, max(values) + margin


def stacked(labels: Sequence[str], parts: Mapping[str, Sequence[float]], *, title: str) -> Markup:
    """A bar for each label, of parts that each have a value for each label."""
    if not labels or not parts:
        return Markup("")
    options = _options(title, SERIES) | {"show_legend": True}
    chart = pygal.StackedBar(**options, legend_at_bottom=True, value_formatter=_whole)
    _label(chart, labels)
    for name, values in parts.items():
        told = zip(labels, values, strict=True)
        chart.add(name, [{"value": value or None, "label": f"{label}, {name}"} for label, value in told])
    return _svg(chart, title)


def _whole(value: float) -> str:
    """A count; the axis has none between two."""
    return f"{value:,.0f}" if float(value).is_integer() else ""


def _options(title: str, colours: Sequence[str]) -> dict[str, Any]:
    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--soft)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--soft)",
        guide_stroke_color="var(--line)",
        major_guide_stroke_color="var(--line)",
        opacity="1",
        colors=tuple(colours),
        font_family="inherit",
    )
    return {
        "style": style,
        "js": [],
        "disable_xml_declaration": True,
        "show_legend": False,
        "width": WIDTH,
        "height": HEIGHT,
        "margin": 6,
        "min_scale": 2,
        "max_scale": 5,
        "include_x_axis": True,
        "no_data_text": f"{title}: nothing yet",
    }


def _label(chart: Any, labels: Sequence[str]) -> None:
    every = -(-len(labels) // LABELS)
    short = [DAY.sub(r"\1", label) for label in labels]
    chart.x_labels = short
    chart.x_labels_major = short[::every]
    chart.show_minor_x_labels = False
    chart.truncate_label = 12


def _svg(chart: Any, title: str) -> Markup:
    chart.uuid = "".join(letter if letter.isalnum() else "-" for letter in title.lower())  # else at random
    chart.add_xml_filter(lambda root: _plain(root, title))
    return Markup(chart.render(is_unicode=True))  # noqa: S704 - made by a library that escapes what it is given


def _plain(root: Any, title: str) -> Any:
    """Without scripts; with a name, and with what each part says on hovering, which the library leaves to a script."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("script", "{http://www.w3.org/2000/svg}script") or not isinstance(child.tag, str):
                parent.remove(child)
        if parent.tag == "title" and parent.text == "Pygal":
            parent.text = title
        said = {each.get("class"): each.text for each in parent if each.tag == "desc"}
        if "value" in said:
            hover = etree.Element("title")
            hover.text = ": ".join(filter(None, (said.get("label"), said["value"])))
            parent.insert(0, hover)
    root.set("role", "img")
    root.set("aria-label", title)
    return root
