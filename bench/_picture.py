"""The picture of a run: what traffic costs, and how far every figure is from its goal. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from bench._chart import Bar, Panel, text_bar
from bench._figure import Figure, share_of_goal

_MICROSECONDS: Final = "CPU us/"
SHARE_MAX: Final = 3.0
"""A figure that misses its goal by more than this fills the bar; its text says by how much."""


def panels(rows: Sequence[tuple[str, Figure]]) -> list[Panel]:
    """Draw the figures of ``(program, figure)`` rows that can be compared with one another."""
    drawn = []
    costs = [figure for program, figure in rows if program == "traffic" and figure.unit.startswith(_MICROSECONDS)]
    if costs:
        bars = [
            Bar(
                figure.name, figure.value, f"{figure.value:,.0f} a {figure.unit.removeprefix(_MICROSECONDS)}", ours=True
            )
            for figure in costs
        ]
        drawn.append(Panel("What traffic costs the server", "CPU us; less is better", bars))
    shares = [(program, figure, share_of_goal(figure)) for program, figure in rows]
    bars = [
        Bar(
            figure.name,
            min(share, SHARE_MAX),
            f"{figure.value:,.3g} {figure.unit} ({figure.goal})",
            ours=share <= 1,
        )
        for _, figure, share in shares
        if share is not None
    ]
    if bars:
        drawn.append(Panel("Figures and their goals", "as a share of the goal, the dashed line", bars, mark=1.0))
    return drawn


def lines(drawn: Sequence[Panel], width: int) -> Iterator[str]:
    """Draw panels as lines of text, none longer than `width` if that can be helped."""
    for panel in drawn:
        label = max(len(bar.label) for bar in panel.bars)
        text = max(len(bar.text) for bar in panel.bars)
        room = max(min(width - label - text - 4, 40), 10)
        yield f"{panel.title} ({panel.note})"
        for bar in panel.bars:
            yield f"  {bar.label:<{label}} {text_bar(bar.value, panel.end, room, panel.mark)} {bar.text}"
        yield ""
