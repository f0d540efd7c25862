"""Charts as SVG for an HTML page: without scripts and styles of their own, so that the page's own apply."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from batchgen.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT = 880, 240  # units of the drawing, which scales with the page
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # what XML cannot hold
_LABELS = 8  # at most so many along an axis


def plotting_library() -> Any:  # noqa: ANN401 - it has no types
    """The module pygal. Raises CommandError where it is missing."""
    try:
        import pygal  # noqa: PLC0415 - of the extra `report`
    except ImportError:
        raise CommandError(
            "The page needs the package pygal. Install it with: pip install 'batchgen[report]'. The figures alone need"
            " no package: batchgen report MANIFEST --json"
        ) from None
    # It adds a finder of modules with an interface of old: each import of a missing module would warn of that.
    sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    return pygal


def drawn(
    kind: str, title: str, values: Sequence[float], labels: Sequence[str], names: Sequence[str], **options: bool
) -> Markup:
    """A `Bar` or a point of a `Line` for each value, with its label below and its name in the tooltip."""
    step = -(-len(labels) // _LABELS)
    shown = [_CONTROLS.sub(" ", label) if i % step == 0 else "" for i, label in enumerate(labels)]
    chart = getattr(plotting_library(), kind)(
        width=_WIDTH,
        height=_HEIGHT,
        show_legend=False,
        include_x_axis=True,
        min_scale=3,
        max_scale=6,
        margin=8,
        js=(),
        truncate_label=-1,
        x_labels=shown,
        **options,
    )
    chart.add(
        "", [{"value": value, "label": _CONTROLS.sub(" ", name)} for value, name in zip(values, names, strict=True)]
    )
    return _cleaned(chart.render_tree(), title)


def _cleaned(root: Any, title: str) -> Markup:  # noqa: ANN401 - an element of lxml, where that is installed
    """Only what is drawn: no styles, scripts, comments and layers that scripts would fill; tooltips are titles."""
    from pygal.etree import etree  # noqa: PLC0415 - of the extra `report`

    for node in [node for node in root if not isinstance(node.tag, str) or node.tag == "defs"]:
        root.remove(node)
    graph = root.find("g")
    for layer in [layer for layer in graph if "overlay" in layer.get("class", "") or layer.get("class") == "titles"]:
        graph.remove(layer)
    for bar in root.iter("g"):
        told = {child.get("class"): child for child in bar.findall("desc")}
        for child in told.values():
            bar.remove(child)
        if "value" in told:
            etree.SubElement(bar, "title").text = f"{told['label'].text}: {told['value'].text}"
    root.find("title").text = title
    del root.attrib["id"]
    root.set("role", "img")
    root.set("aria-label", title)
    return Markup(etree.tostring(root).decode())  # noqa: S704 - its texts are escaped by the library
