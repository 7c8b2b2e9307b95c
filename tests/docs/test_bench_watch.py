"""`make bench-watch` in small: a few streams, one short round."""

from __future__ import annotations

import pytest

from benchmarks import watch
from benchmarks.site import site


@pytest.mark.long
def test_every_figure_of_watching_is_measured_and_every_stream_tells_the_tables() -> None:
    said: list[str] = []
    with site() as place:
        results = watch.measured(place, rounds=1, duration=0.2, scale=0.004, say=said.append)
    measured = {name for name, key in results["keys"].items() if key["value"] is not None}
    missing = {"watch_cost"} if any("ghz is not on PATH" in line for line in said) else set()
    assert measured == {key.name for key in watch.KEYS} - missing
    assert {name: row["mismatches"] for name, row in results["rows"].items()} == dict.fromkeys(
        results["rows"], 0
    )
    assert results["verify"].endswith("mismatches=0")
    assert results["rows"]["watch_streams"]["median"] == 24  # all that it tries
