"""Pictures in SVG, written by hand: no library draws them, and they need none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #222 } .small { font-size: 11px; fill: #666 }
.title { font-size: 15px; font-weight: 600 } .bar { fill: #4477aa } .below { fill: #cc6644 } .plain { fill: #99aabb }
.track { fill: #eef0f2 } .mark { stroke: #222; stroke-width: 1.5 } .spread { stroke: #223344; stroke-width: 2 }
.grid { stroke: #dde1e5 } .line { fill: none; stroke: #4477aa; stroke-width: 2.5 } .dot { fill: #4477aa }
</style>"""

_LEFT, _WIDTH, _STEP, _TOP = 190, 420, 30, 64
_MOST = 1.3  # of the aim; longer bars are cut there


def of_keys(results: dict[str, Any]) -> str:
    """A bar for each figure, as a share of its aim, with its floor as a mark."""
    keys = {
        name: key
        for name, key in results["keys"].items()
        if key["value"] is not None and key["aim"] is not None
    }
    body = [
        _text(16, 26, "Figures of make bench, as shares of their aims", "title"),
        _text(
            16,
            46,
            "line: least and greatest of the rounds; tick: floor; end of the grey: aim; orange: below its floor",
            "small",
        ),
    ]
    for place, (name, key) in enumerate(keys.items()):
        body += _key_bar(_TOP + place * _STEP, name, key)
    return _svg(_LEFT + _WIDTH * _MOST + 90, _TOP + len(keys) * _STEP + 16, body)


def of_growth(results: dict[str, Any]) -> str:
    """Deductions per second over the number of entries (logarithmic), with least and greatest."""
    rows = [row for row in results["rows"].values() if row["accounts"] > 1]
    most: float = 1.15 * max(row["max"] for row in rows)
    sizes: list[float] = [math.log10(row["entries"]) for row in rows]
    low, high = min(sizes), max(sizes)

    def x(size: float) -> float:
        return 90 + 440 * (size - low) / ((high - low) or 1)

    def y(rate: float) -> float:
        return 300 - 230 * rate / most

    body = [
        _text(16, 26, "BatchDeduct of 100, 8 in flight, over the size of the ledger", "title"),
        _text(16, 46, "deductions per second; line: least and greatest of the rounds", "small"),
    ]
    for step in _steps(most):
        body.append(f'<line class="grid" x1="80" x2="560" y1="{y(step):.1f}" y2="{y(step):.1f}"/>')
        body.append(_text(72, y(step) + 4, f"{step:,.0f}", "small", "end"))
    points = " ".join(f"{x(size):.1f},{y(row['median']):.1f}" for size, row in zip(sizes, rows, strict=True))
    body.append(f'<polyline class="line" points="{points}"/>')
    for size, row in zip(sizes, rows, strict=True):
        at = x(size)
        body.append(
            f'<line class="spread" x1="{at:.1f}" x2="{at:.1f}" y1="{y(row["min"]):.1f}" y2="{y(row["max"]):.1f}"/>'
        )
        body.append(f'<circle class="dot" cx="{at:.1f}" cy="{y(row["median"]):.1f}" r="4"/>')
        body.append(_text(at, 322, f"{row['accounts']:,} accounts", "small", "middle"))
        body.append(_text(at, 338, f"{row['entries']:,} entries", "small", "middle"))
    return _svg(620, 354, body)


def _key_bar(top: float, name: str, key: dict[str, Any]) -> list[str]:
    def length(value: float) -> float:
        share: float = key["aim"] / value if key["lower_is_better"] else value / key["aim"]
        return _LEFT + _WIDTH * min(share, _MOST)

    middle = top + 8
    kind = "bar" if key["ok"] else "below"
    ends = sorted([length(key["min"]), length(key["max"])])
    floor = length(key["floor"])
    return [
        _text(_LEFT - 10, top + 12, name, anchor="end"),
        _bar("track", _LEFT, top, _WIDTH),
        _bar(kind, _LEFT, top, length(key["value"]) - _LEFT),
        f'<line class="spread" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<line class="mark" x1="{floor:.1f}" x2="{floor:.1f}" y1="{top - 3}" y2="{top + 19}"/>',
        _text(_LEFT + _WIDTH * _MOST + 10, top + 12, f"{key['value']:.2f}"),
    ]


def _steps(most: float) -> Sequence[float]:
    """Round numbers from 0 to ``most``, about five."""
    power = 10.0 ** math.floor(math.log10(most))
    step = next(size * power for size in (0.2, 0.5, 1.0, 2.0) if most / (size * power) <= 6)
    return [step * count for count in range(int(most / step) + 1)]


def _bar(kind: str, left: float, top: float, width: float) -> str:
    return f'<rect class="{kind}" x="{left:.1f}" y="{top}" width="{width:.1f}" height="16" rx="2"/>'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(width: float, height: float, body: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">'
    )
    return "\n".join([head, _STYLE, '<rect width="100%" height="100%" fill="#fff"/>', *body, "</svg>\n"])
