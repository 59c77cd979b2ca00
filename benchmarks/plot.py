"""Plots: one workload as bars in SVG, written by hand: a bar for each median, a line from the least to the most."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.sample import Samples
from benchmarks.workloads.base import Column

_BAR, _GAP, _LEFT, _WIDTH, _RIGHT = 16, 14, 190, 560, 110
_COLOURS = ("#1b6ca8", "#d1752c", "#4f9153", "#a8456b", "#7a68b8", "#8a7442", "#5c6670", "#2f9c9c")
_STYLE = "text{font:12px sans-serif;fill:#222}.n{font-size:11px;fill:#555}.t{font-size:15px;font-weight:bold}"


def bars(
    samples: Samples, name: str, title: str, column: Column, notes: Sequence[str], labels: Mapping[str, str]
) -> str:
    """The workload's first column on a logarithmic scale; `labels` are put behind contenders' names, as footnotes.

    Empty if there is nothing to show.
    """
    found = [
        (case, contender, samples.spread(name, case, contender, column.metric))
        for case in samples.cases(name)
        for contender in samples.contenders(name, case)
    ]
    shown = [(case, contender, s) for case, contender, s in found if s is not None and s.median > 0]
    if not shown:
        return ""
    low = 10 ** math.floor(math.log10(min(max(s.least, s.median / 100) for _, _, s in shown)))
    high = max(max(s.most for _, _, s in shown), low * 10)
    contenders = list(dict.fromkeys(contender for _, contender, _ in shown))

    def x(value: float) -> float:
        return _LEFT + _WIDTH * max(0.0, math.log(max(value, low) / low) / math.log(high / low))

    parts = [f'<text class="t" x="10" y="22">{escape(title)}</text>']
    parts.append(
        f'<text class="n" x="10" y="40">{escape(column.heading)}, logarithmic; {column.better} is better</text>'
    )
    y, previous = 58, None
    for case, contender, spread in shown:
        if case != previous:
            y += _GAP if previous is not None else 0
            parts.append(f'<text x="10" y="{y + 12}" font-weight="bold">{escape(case)}</text>')
            previous = case
        colour = _COLOURS[contenders.index(contender) % len(_COLOURS)]
        middle = y + _BAR / 2 - 1
        width = max(1.0, x(spread.median) - _LEFT)
        parts.append(f'<text class="n" x="{_LEFT - 6}" y="{y + 12}" text-anchor="end">{escape(contender)}</text>')
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
        parts.append(
            f'<path d="M{x(spread.least):.1f} {middle}H{x(spread.most):.1f}" stroke="#222" stroke-width="1.5"/>'
        )
        value = f"{spread.median:,.{column.digits}f}"
        parts.append(f'<text class="n" x="{x(spread.most) + 6:.1f}" y="{y + 12}">{value}</text>')
        y += _BAR
    y += 24
    for note in [*(f"{c}: {labels[c]}" for c in contenders if c in labels), *notes]:
        parts.append(f'<text class="n" x="10" y="{y}">{escape(note)}</text>')
        y += 15
    size = f'width="{_LEFT + _WIDTH + _RIGHT}" height="{y}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
