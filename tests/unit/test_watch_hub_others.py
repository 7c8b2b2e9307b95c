"""What one stream finds in the tables, the others of its account must hear of."""

from __future__ import annotations

from creditledger_server.storage.connect import Connection
from creditledger_server.watch.hub import Hub
from creditledger_server.watch.pages import Pages


def no_connection() -> Connection:
    raise AssertionError


def test_a_stream_is_told_of_what_another_was_first_to_find() -> None:
    hub = Hub(Pages(no_connection), lambda: None)
    with hub.subscribe(["ann"]) as live:
        hub.reached("ann", 10)
        assert live.take() == "ann"
        assert live.take() is None

        with hub.subscribe(["ann"]) as new:
            hub.reached("ann", 11)
            assert (live.take(), new.take()) == ("ann", "ann")

            hub.reached("ann", 11)
            assert (live.take(), new.take()) == (None, None)
        assert hub.recent.after("ann", 10, 5) is None
