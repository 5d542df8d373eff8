"""Bar charts: an SVG that parses and stays within its page, and bars of text."""

from xml.etree import ElementTree

import pytest

from bench._chart import WIDTH, Bar, Panel, svg, text_bar

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_values_say_and_ours_stands_out() -> None:
    bars = [Bar("nginx", 20.0, "20", 18.0, 25.0), Bar("portico", 40.0, "40 <2.0>", ours=True)]
    root = ElementTree.fromstring(svg([Panel("get & go", "us", bars, mark=30.0)]))
    rects = root.findall(f"{SVG}rect")
    widths = [float(rect.attrib["width"]) for rect in rects]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert [rect.attrib["class"] for rect in rects] == ["bar", "bar ours"]
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert {"get & go", "us", "nginx", "portico", "20", "40 <2.0>"} <= {*texts}
    lines = {line.attrib["class"]: line.attrib for line in root.findall(f"{SVG}line")}
    start = float(rects[0].attrib["x"])
    assert float(lines["range"]["x1"]) - start == pytest.approx(0.9 * widths[0], abs=0.2)
    assert float(lines["mark"]["x1"]) - start == pytest.approx(0.75 * widths[1], abs=0.2)


def test_chart_says_how_it_looks_where_it_is_dark_and_has_no_background() -> None:
    text = svg([Panel("a", "b", [Bar("c", 1.0, "1")])])
    assert "prefers-color-scheme: dark" in text
    assert text.count("<rect") == 1


def test_panels_stand_one_below_the_other_within_the_page() -> None:
    panel = Panel("a", "b", [Bar("a rather long name of a figure", 1.0, "1,234.5 CPU us/request (<= 0.7)")] * 3)
    root = ElementTree.fromstring(svg([panel, panel]))
    tops = [float(rect.attrib["y"]) for rect in root.findall(f"{SVG}rect")]
    assert tops == sorted(set(tops))
    assert tops[-1] + 14 <= float(root.attrib["height"])
    assert all(float(rect.attrib["x"]) + float(rect.attrib["width"]) < WIDTH for rect in root.findall(f"{SVG}rect"))


@pytest.mark.parametrize(
    ("value", "mark", "bar"),
    [
        (0.0, None, "    "),
        (1.0, None, "██  "),
        (1.25, None, "██▌ "),
        (2.0, None, "████"),
        (5.0, None, "████"),
        (0.5, 1.0, "█ ┊ "),
        (2.0, 1.0, "██┊█"),
        (1.0, 2.0, "██ ┊"),
        (1.0, 9.0, "██  "),
    ],
)
def test_text_bar_is_drawn_by_eighths_of_a_character(value: float, mark: float | None, bar: str) -> None:
    assert text_bar(value, 2.0, 4, mark) == bar


def test_scale_of_nothing_has_no_bars() -> None:
    assert text_bar(0.0, 0.0, 3) == "   "
    assert Panel("a", "b", []).end == 1.0
