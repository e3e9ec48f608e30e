import json
import math
import re
import struct
from html.parser import HTMLParser
from importlib.util import find_spec
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plot import NARROW, WIDE, Axes, Point, scatter_svg, ticks
from planner.plot_html import scatter_html
from planner.plot_png import can_draw_png, scatter_png

SVG = "{http://www.w3.org/2000/svg}"
AXES = Axes(title='a "title" & </script><more', x_label="days", y_label="$")
POINTS = [
    Point(20.0, 9e5, "384 <&>", detail="DP 4 × TP 2\n</script><b>bold"),
    Point(40.0, 8e5, "192", filled=False),
]


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_enclose_the_values_with_few_round_numbers(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) >= 2 and len(found) <= 9
    width = found[1] - found[0]
    assert found[0] <= low + width * 1e-6 and found[-1] >= low + span - width * 1e-6


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_plot_is_well_formed_and_keeps_its_points_inside(size: tuple[int, int]) -> None:
    text = scatter_svg(POINTS, AXES, size)
    root = ElementTree.fromstring(text)
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == 2
    for circle in circles:
        assert 0 < float(circle.attrib["cx"]) < size[0]
        assert 0 < float(circle.attrib["cy"]) < size[1]
    assert [c.findtext(f"{SVG}title") for c in circles] == [POINTS[0].detail, None]
    assert "prefers-color-scheme: dark" in text


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=40))
def test_no_label_lies_on_another(places: list[tuple[float, float]]) -> None:
    points = [Point(x, y, "12,345") for x, y in places]
    root = ElementTree.fromstring(scatter_svg(points, AXES))
    boxes = []
    for text in root.findall(f"{SVG}text"):
        if text.text == "12,345":
            x, y, width = float(text.attrib["x"]), float(text.attrib["y"]), 6 * 7.5
            left = x - width if text.attrib["text-anchor"] == "end" else x
            boxes.append((left, y, width))
    assert boxes
    for index, (left, y, width) in enumerate(boxes):
        for other_left, other_y, _ in boxes[:index]:
            assert abs(left - other_left) >= width - 0.2 or abs(y - other_y) >= 14.8


class Page(HTMLParser):
    """What a browser makes of it: tags, their attributes, and each script's text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)


def page() -> str:
    rows = [("384", "<i>"), ("192", "")]
    return scatter_html(POINTS, AXES, columns=("GPUs", "layout"), rows=rows, notes=["a & b"])


def test_a_page_links_each_point_to_its_row_and_needs_no_network() -> None:
    found = Page(page())
    links = [attributes["href"] or "" for tag, attributes in found.tags if tag == "a"]
    rows = [f"#{attributes['id']}" for tag, attributes in found.tags if tag == "tr" and attributes]
    assert rows == ["#point-0", "#point-1"] and sorted(links) == sorted(2 * rows)
    loading = {"link", "img", "iframe", "object", "embed"}
    assert not loading & {tag for tag, _ in found.tags}
    assert not any("src" in attributes for _, attributes in found.tags)
    assert set(re.findall(r"https?://[^\"' ]+", page())) == {"http://www.w3.org/2000/svg"}
    assert ("meta", "viewport") in [(tag, attributes.get("name")) for tag, attributes in found.tags]


def test_what_a_point_is_cannot_end_the_pages_script() -> None:
    found = Page(page())
    (script,) = found.scripts
    details = re.search(r"const details = (\[.*\]);", script)
    assert details is not None
    assert json.loads(details[1]) == [p.detail for p in POINTS]
    assert not any(tag in ("b", "i", "more") for tag, _ in found.tags)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_png_is_one() -> None:
    content = scatter_png(POINTS, AXES)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > height > 400


def test_a_png_is_drawn_where_matplotlib_is_installed_and_nowhere_else() -> None:
    assert can_draw_png() == (find_spec("matplotlib") is not None)


@pytest.mark.parametrize("points", [[], [Point(math.nan, 1.0, "")], [Point(1.0, math.inf, "")]])
def test_a_plot_of_nothing_or_of_no_numbers_is_refused(points: list[Point]) -> None:
    with pytest.raises(ValueError, match="finite"):
        scatter_svg(points, AXES)
    with pytest.raises(ValueError, match="finite"):
        scatter_png(points, AXES)
