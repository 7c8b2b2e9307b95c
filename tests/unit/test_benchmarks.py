"""What the benchmarks compute from what they measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report, traced, watch
from benchmarks.delivery import is_wrong
from benchmarks.keys import KEYS, Key, judge
from benchmarks.replay import read_transactions, uniform
from benchmarks.site import BenchError
from benchmarks.watch_rows import percentile
from benchmarks.watchers import Delivered, Told

HIGH = Key("high", "more is better", "ours", ("theirs",), 0.5, 1.0)
LOW = Key("low", "less is better", "ours", ("theirs", "others"), 1.5, 1.0, lower_is_better=True)

LOG = """\
2026-11-22 20:00:00.000 UTC [7] LOG:  execute begin: BEGIN
2026-11-22 20:00:00.000 UTC [8] LOG:  execute <unnamed>: SELECT 1
2026-11-22 20:00:00.000 UTC [7] LOG:  execute lock: 
\tSELECT * FROM account
\tWHERE account_id = ANY($1::text[])
2026-11-22 20:00:00.000 UTC [7] DETAIL:  Parameters: $1 = '{"a","it''s"}'
2026-11-22 20:00:00.000 UTC [7] LOG:  execute insert: INSERT INTO entry VALUES ($1, $2)
2026-11-22 20:00:00.000 UTC [7] DETAIL:  Parameters: $1 = '{}', $2 = '5'
2026-11-22 20:00:00.000 UTC [7] LOG:  statement: COMMIT
"""  # noqa: W291 - as Postgres writes it


def test_a_figure_is_the_median_of_the_ratios_of_each_round() -> None:
    told = judge([HIGH], {"ours": [10.0, 30.0, 40.0], "theirs": [100.0, 50.0, 100.0]})["high"]
    assert (told["value"], told["min"], told["max"], told["ok"]) == (0.4, 0.1, 0.6, False)


@pytest.mark.parametrize(("ours", "ok"), [(4.0, True), (7.0, False)])
def test_where_less_is_better_the_floor_is_a_ceiling(ours: float, ok: bool) -> None:
    assert judge([LOW], {"ours": [ours], "theirs": [1.0], "others": [3.0]})["low"]["ok"] is ok


def test_without_all_of_its_rows_a_figure_has_no_value() -> None:
    told = judge([LOW], {"ours": [1.0], "theirs": [1.0]})["low"]
    assert (told["value"], told["ok"]) == (None, None)


def test_a_figure_without_a_rival_is_the_row_itself() -> None:
    told = judge([Key("alone", "as it is", "ours", (), 3.0, lower_is_better=True)], {"ours": [1.0, 2.0, 9.0]})
    assert (told["alone"]["value"], told["alone"]["max"], told["alone"]["ok"]) == (2.0, 9.0, True)


def test_the_floors_are_those_of_the_project() -> None:
    assert {key.name: key.floor for key in KEYS if key.floor is not None} == {
        "unary_vs_echo": 0.55, "canperform_vs_echo": 0.70, "batch_vs_textbook": 6, "hot_vs_textbook": 15,
        "hot_vs_spread": 1.0, "batch_vs_postgres": 0.35, "client_batching": 5, "client_batching_64": 2.5,
        "idle_latency": 1.5, "unary_features_vs_echo": 0.55, "canperform_features_vs_echo": 0.70,
        "batch_features_vs_textbook": 6, "loaded_account": 3, "loaded_account_batch": 1 / 3,
    }  # fmt: skip


def test_the_floors_of_watching_are_those_of_the_project() -> None:
    assert {key.name: key.floor for key in watch.KEYS if key.floor is not None} == {
        "watch_lag_p99_ms": 250, "watch_fanout": 0.5, "watch_cost": 0.8, "watch_kb_per_stream": 60,
        "watch_streams": 5_000,
    }  # fmt: skip


TABLE = {4: b"four", 5: b"five", 6: b"six"}
FOUR, FIVE, SIX = (Told(revision, revision, TABLE[revision], 0.0) for revision in TABLE)


@pytest.mark.parametrize("told", [[FOUR, FIVE, SIX], [FOUR, Told(5, 6, b"", 0.0)]])
def test_a_stream_that_tells_the_table_is_right(told: list[Told]) -> None:
    assert not is_wrong(Delivered("a", 3, told, ""), TABLE)


@pytest.mark.parametrize(
    "told",
    [
        [], [FOUR, FIVE], [FIVE, SIX], [FOUR, SIX], [FOUR, FOUR, FIVE, SIX], [FOUR, SIX, FIVE],
        [FOUR, FIVE, Told(6, 6, b"another", 0.0)], [FOUR, FIVE, SIX, Told(7, 7, b"seven", 0.0)],
        [Told(4, 5, b"", 0.0)], [FOUR, Told(6, 6, b"", 0.0)],
    ],
)  # fmt: skip
def test_gaps_repeats_disorder_and_other_entries_in_a_stream_are_wrong(told: list[Told]) -> None:
    assert is_wrong(Delivered("a", 3, told, ""), TABLE)


def test_a_stream_that_has_ended_is_wrong() -> None:
    assert is_wrong(Delivered("a", 6, [], "UNAVAILABLE: gone"), {})
    assert not is_wrong(Delivered("a", 6, [], ""), {})


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([5.0, 1.0, 3.0, 2.0], percent) for percent in (50, 75, 99, 100)] == [
        2.0,
        3.0,
        5.0,
        5.0,
    ]
    assert percentile([7.0], 99) == 7.0


def test_results_of_another_command_stay_when_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.write("latest", {"keys": "old"})
    report.write_part("watch", {"keys": "watched"})
    report.write("latest", {"keys": "new"})
    assert report.read("latest") == {"keys": "new", "watch": {"keys": "watched"}}
    assert report.read("watch") == {"keys": "watched"}


def test_transactions_are_read_from_the_log_with_their_parameters() -> None:
    [transaction] = read_transactions(LOG)["7"]
    assert [text.split()[0] for text, _ in transaction] == ["BEGIN", "SELECT", "INSERT", "COMMIT"]
    assert [parameters for _, parameters in transaction] == [(), ("""{"a","it's"}""",), ("{}", "5"), ()]


def test_transactions_that_are_not_alike_are_not_replayed() -> None:
    longer = LOG.replace("statement: COMMIT", "statement: SELECT 2")
    with pytest.raises(BenchError, match="differ"):
        uniform(read_transactions(LOG + longer))
    with pytest.raises(BenchError, match="no statements"):
        uniform(read_transactions(""))


@pytest.mark.parametrize(("module", "path"), [(module, path) for module, path, _ in traced.PHASES])
def test_what_the_breakdown_clocks_is_there(module: str, path: str) -> None:
    owner, name = traced.found(module, path)
    assert callable(getattr(owner, name))


def test_the_page_tells_the_results_that_are_kept() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.updated(page) == page
