"""What `make bench` tells: tables in the terminal, pictures and the page's figures under docs/, all from results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import chart
from .site import ROOT

RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
PAGE = DOCS / "performance.md"
_PARTS = ("watch",)

Results = dict[str, Any]


def write(name: str, results: Results) -> Path:
    """Writes results as JSON, beside the parts that others have written there; returns where."""
    kept = {part: value for part, value in (read(name) or {}).items() if part in _PARTS}
    return _write(name, {**results, **kept})


def write_part(part: str, results: Results) -> Path:
    """Writes results of another command into those of `make bench`, and leaves everything else there."""
    assert part in _PARTS
    return _write("latest", {**(read("latest") or {}), part: results})


def _write(name: str, results: Results) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def read(name: str) -> Results | None:
    """The results of that name, if there are any; a part's are in those of `make bench`."""
    if name in _PARTS:
        return (read("latest") or {}).get(name)
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def show(console: Console, results: Results) -> None:
    """Prints both tables."""
    rows = Table("row", "median", "min to max", "generator", "server", "per commit", "audit")
    for name, row in results["rows"].items():
        rows.add_row(
            f"{name}{_details(row)}", figure(row["median"], row["unit"]),
            f"{figure(row['min'])} to {figure(row['max'])}",
            _cost(row["generator_cpu_us"]), _cost(row["server_cpu_us"]),
            f"{row['entries_per_commit']:.0f}" if row["entries_per_commit"] else "",
            f"mismatches={row['mismatches']}",
        )  # fmt: skip
    rows.caption = "generator, server: their CPU time per operation"
    console.print(rows)
    keys = Table("key", "value", "min to max", "floor", "aim", "")
    for name, key in results["keys"].items():
        keys.add_row(name, *_key_cells(key))
    console.print(keys)


def update_docs() -> None:
    """Draws the pictures and writes the figures of all results into the page."""
    if results := read("latest"):
        (DOCS / "performance.svg").write_text(chart.of_keys(results), encoding="utf-8")
    if growth := read("growth"):
        (DOCS / "growth.svg").write_text(chart.of_growth(growth), encoding="utf-8")
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def updated(page: str) -> str:
    """The page with the figures of all results that are kept."""
    for name, section, lines in (
        ("latest", "bench", _bench_lines),
        ("watch", "watch", _watch_lines),
        ("growth", "growth", _growth_lines),
        ("breakdown", "breakdown", _breakdown_lines),
    ):
        if results := read(name):
            page = _replaced(page, section, "\n".join(lines(results)))
    return page


def figure(value: float | None, unit: str = "") -> str:
    """A number with about three digits that count."""
    if value is None:
        return ""
    unit = " ms" if unit == "ms" else unit
    if value >= 100:
        return f"{value:,.0f}{unit}"
    return f"{value:.2f}{unit}" if value < 10 else f"{value:.1f}{unit}"


def machine_line(results: Results) -> str:
    """The machine, the versions, the flush and the loop, in a sentence."""
    machine, versions = results["machine"], results["versions"]
    known = {name: version for name, version in versions.items() if version and name != "creditledger-server"}
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['kernel']}; "
        f"{', '.join(f'{name} {version}' for name, version in known.items())}; "
        f"a write and fdatasync of 8 KiB takes {results['fsync_us']:,.0f} µs, a loop of 1,000 calls in Python "
        f"{results['loop_us']:,.0f} µs (medians of 200)."
    )


def _key_cells(key: dict[str, Any]) -> list[str]:
    if key["value"] is None:
        return ["missing", "", figure(key["floor"]), figure(key["aim"]), "missing"]
    sign = "≤ " if key["lower_is_better"] else ""
    verdict = "" if key["floor"] is None else "ok" if key["ok"] else "below"
    spread = f"{figure(key['min'])} to {figure(key['max'])}"
    floor = sign + figure(key["floor"]) if key["floor"] is not None else ""
    return [figure(key["value"]), spread, floor, figure(key["aim"]), verdict]


def _bench_lines(results: Results) -> list[str]:
    settings = results["settings"]
    lines = [
        f"`make bench ROUNDS={settings['rounds']} DURATION={settings['duration']:g}`, {results['date']}: "
        f"{machine_line(results)}",
        "",
        "| key | what | value | min to max | at least | aim | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, key in results["keys"].items():
        lines.append(f"| `{name}` | {key['meaning']} | {' | '.join(_key_cells(key))} |")
    return [*lines, *_row_lines(results)]


def _row_lines(results: Results) -> list[str]:
    lines = ["", "| row | what | median | min to max | server's CPU per operation | deductions per commit |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in results["rows"].items():
        spread = f"{figure(row['min'])} to {figure(row['max'])}"
        per_commit = f"{row['entries_per_commit']:.0f}" if row["entries_per_commit"] else ""
        lines.append(
            f"| `{name}` | {row['meaning']}{_details(row)} | {figure(row['median'], row['unit'])} | {spread} "
            f"| {_cost(row['server_cpu_us'])} | {per_commit} |"
        )
    return [*lines, "", f"`creditledger-server verify` at the end of this run: `{results['verify']}`."]


def _watch_lines(watch: Results) -> list[str]:
    settings = watch["settings"]
    command = f"make bench-watch ROUNDS={settings['rounds']} DURATION={settings['duration']:g}"
    return [f"`{command}`, {watch['date']}: {machine_line(watch)}", *_key_lines(watch), *_row_lines(watch)]


def _key_lines(results: Results) -> list[str]:
    """The keys of a command whose keys have no aims."""
    lines = ["", "| key | what | value | min to max | at least | |", "|---|---|---|---|---|---|"]
    for name, key in results["keys"].items():
        value, spread, floor, _aim, verdict = _key_cells(key)
        lines.append(f"| `{name}` | {key['meaning']} | {value} | {spread} | {floor} | {verdict} |")
    return lines


def _details(row: dict[str, Any]) -> str:
    """What a row tells beside its figure: medians of the rounds."""
    told = row.get("details", {})  # results of before have none
    return f" ({', '.join(f'{name} {figure(value)}' for name, value in told.items())})" if told else ""


def _growth_lines(growth: Results) -> list[str]:
    lines = [
        f"`make bench-growth ROUNDS={growth['settings']['rounds']} SCALE={growth['settings']['scale']:g}`, "
        f"{growth['date']}: {machine_line(growth)}",
        *_key_lines(growth),
    ]
    lines += ["", "| ledger | deductions per second | min to max |", "|---|---|---|"]
    for row in growth["rows"].values():
        spread = f"{figure(row['min'])} to {figure(row['max'])}"
        lines.append(f"| {row['meaning']} | {figure(row['median'])} | {spread} |")
    return lines


def _breakdown_lines(phases: Results) -> list[str]:
    lines = [
        f"`make bench-breakdown`, {phases['date']}: {machine_line(phases)}",
        "",
        "| CPU of the server, µs per deduction | " + " | ".join(phases["loads"]) + " |",
        "|---|" + "---|" * len(phases["loads"]),
    ]
    for phase in next(iter(phases["loads"].values())):
        cells = " | ".join(f"{load[phase]:.1f}" for load in phases["loads"].values())
        lines.append(f"| {phase} | {cells} |")
    [(load, statements)] = phases["postgres"].items()
    lines += ["", f"| Postgres, {load} | µs per deduction |", "|---|---|"]
    lines += [f"| `{statement}` | {span:.1f} |" for statement, span in statements.items()]
    return lines + _core_lines(phases.get("cores", {}))


def _core_lines(loads: dict[str, dict[str, float]]) -> list[str]:
    if not loads:
        return []
    return [
        "",
        f"| shares of one core | {' | '.join(loads)} |",
        "|---|" + "---|" * len(loads),
        *(
            f"| {who} | {' | '.join(f'{load[who]:.2f}' for load in loads.values())} |"
            for who in next(iter(loads.values()))
        ),
    ]


def _cost(microseconds: float) -> str:
    return f"{figure(microseconds)} µs" if microseconds else ""


def _replaced(page: str, section: str, text: str) -> str:
    """The page with the text between the section's two comments."""
    begin, end = f"<!-- {section}: made by benchmarks/report.py -->\n", f"\n<!-- end of {section} -->"
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    assert found, f"the page has no section {section}"
    return f"{head}{begin}\n{text}\n{end}{tail}"


if __name__ == "__main__":
    update_docs()
