"""Bar charts of figures: as SVG for a page, as text for a terminal. Pure.

The SVG has no background and asks the viewer whether it is dark, so that it can be read on either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 760
_CHARACTER: Final = 7
"""Of 13 px type, at the widest that a line of it gets."""
_LABEL_MIN: Final = 120
_LABEL_MAX: Final = 360
_ROW: Final = 22
_HEAD: Final = 40
_GAP: Final = 18

_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 14px }
  .note { fill: #59636e; font-size: 12px }
  .bar { fill: #8c959f }
  .ours { fill: #0969da }
  .range { stroke: #1f2328; stroke-width: 1.5; opacity: .55 }
  .mark { stroke: #bc4c00; stroke-width: 1.5; stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #9198a1 }
    .bar { fill: #656c76 }
    .ours { fill: #4493f8 }
    .range { stroke: #e6edf3 }
    .mark { stroke: #f0883e }
  }
"""

_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
"""By eighths of a character."""


@dataclass(frozen=True)
class Bar:
    """One row."""

    label: str
    value: float
    text: str
    """What stands at its end."""
    low: float | None = None
    high: float | None = None
    """Where its samples lay."""
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    """Bars of one unit, on one scale that begins at zero."""

    title: str
    note: str
    bars: Sequence[Bar]
    mark: float | None = None
    """Where a goal lies."""

    @property
    def end(self) -> float:
        """The value at the end of the scale."""
        return max([*(bar.high or bar.value for bar in self.bars), self.mark or 0.0]) or 1.0


def svg(panels: Sequence[Panel]) -> str:
    """Draw panels one below the other."""
    parts: list[str] = []
    top = _GAP
    for panel in panels:
        parts += _panel(panel, top)
        top += _HEAD + _ROW * len(panel.bars) + _GAP
    titles = escape("; ".join(panel.title for panel in panels))
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<title>{titles}</title>", f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def _panel(panel: Panel, top: int) -> list[str]:
    # The longest label and the longest text get their room, the bars what is left.
    label = min(max([_LABEL_MIN, *(len(bar.label) * _CHARACTER + 8 for bar in panel.bars)]), _LABEL_MAX)
    text = max((len(bar.text) * _CHARACTER + 24 for bar in panel.bars), default=0)
    scale = max(WIDTH - label - text, _LABEL_MIN) / panel.end
    parts = [
        f'<text class="title" x="0" y="{top + 13}">{escape(panel.title)}</text>',
        f'<text class="note" x="0" y="{top + 30}">{escape(panel.note)}</text>',
    ]
    first = top + _HEAD
    for number, bar in enumerate(panel.bars):
        y = first + _ROW * number
        middle = y + _ROW / 2
        kind = "bar ours" if bar.ours else "bar"
        weight = ' font-weight="600"' if bar.ours else ""
        parts.append(f'<text x="{label - 8}" y="{y + 16}" text-anchor="end"{weight}>{escape(bar.label)}</text>')
        parts.append(
            f'<rect class="{kind}" x="{label}" y="{y + 4}" width="{bar.value * scale:.1f}" height="14" rx="2"/>'
        )
        if bar.low is not None and bar.high is not None:
            low, high = label + bar.low * scale, label + bar.high * scale
            parts.append(f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
        # Beyond bar, range and mark: no line goes through a text.
        end = label + max(bar.value, bar.high or 0.0, panel.mark or 0.0) * scale + 8
        parts.append(f'<text x="{end:.1f}" y="{y + 16}"{weight}>{escape(bar.text)}</text>')
    if panel.mark is not None:
        x = label + panel.mark * scale
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{first}" y2="{first + _ROW * len(panel.bars)}"/>'
        )
    return parts


def text_bar(value: float, end: float, width: int, mark: float | None = None) -> str:
    """Draw a bar of at most so many characters, on a scale from zero to `end`, perhaps with a goal's mark on it."""
    share = min(max(value / end, 0.0), 1.0) if end > 0 else 0.0
    eighths = round(share * width * 8)
    bar = (_BLOCKS[8] * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")).ljust(width)
    if mark is None or not 0 < mark <= end:
        return bar
    at = min(math.floor(mark / end * width), width - 1)
    return f"{bar[:at]}┊{bar[at + 1 :]}"
