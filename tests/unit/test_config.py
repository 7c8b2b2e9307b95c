"""Settings: where they come from, what they refuse and how they say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from creditledger_server.config import ConfigError, Settings, is_loopback, load_settings, settings_table


def test_defaults_need_no_environment() -> None:
    settings = load_settings()
    assert (settings.database_url, settings.listen, settings.embedded) == (
        None,
        "127.0.0.1:50051",
        Path(".data"),
    )
    assert (settings.lanes, settings.max_batch, settings.queue_limit, settings.pool_size) == (
        2,
        512,
        10_000,
        4,
    )


def test_an_option_goes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CREDITLEDGER_LANES", "8")
    monkeypatch.setenv("CREDITLEDGER_LISTEN", "127.0.0.1:1")
    settings = load_settings(listen="127.0.0.1:2", lanes=None)
    assert (settings.lanes, settings.listen) == (8, "127.0.0.1:2")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDITLEDGER_DATABASE_URL", "")
    assert load_settings().database_url is None


def test_every_mistake_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDITLEDGER_LANES", "0")
    monkeypatch.setenv("CREDITLEDGER_MAX_BATCH", "many")
    with pytest.raises(ConfigError) as caught:
        load_settings(listen="here")
    message = str(caught.value)
    assert "CREDITLEDGER_LANES: " in message
    assert "CREDITLEDGER_MAX_BATCH: " in message
    assert "--listen: must be HOST:PORT" in message
    assert "\n" not in message


def test_a_database_url_is_never_shown() -> None:
    settings = load_settings(database_url="postgresql://u:secret@h/d")
    assert "secret" not in repr(settings)
    with pytest.raises(ConfigError) as caught:
        load_settings(database_url="mysql://u:secret@h/d")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["", "50051", ":50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", "::1:50051", "a:²"],
)
def test_a_listen_address_must_be_one(address: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        load_settings(listen=address)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.9.9:1", "localhost:50051", "[::1]:65535"])
def test_loopback_needs_no_leave(address: str) -> None:
    assert is_loopback(address)
    assert load_settings(listen=address).listen == address


@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "ledger.internal:1", "localhost.evil.example:1"]
)
def test_anything_else_needs_insecure(address: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        load_settings(listen=address)
    assert load_settings(listen=address, insecure=True).listen == address


@pytest.mark.parametrize("address", ["", "9464", "127.0.0.1", ":9464"])
def test_the_address_of_metrics_must_be_one(address: str) -> None:
    with pytest.raises(ConfigError, match="--metrics-listen: must be HOST:PORT"):
        load_settings(metrics_listen=address)


def test_metrics_for_anybody_need_insecure() -> None:
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0:9464 is not a loopback address.*--insecure"):
        load_settings(metrics_listen="0.0.0.0:9464")
    assert load_settings(metrics_listen="0.0.0.0:9464", insecure=True).metrics_listen == "0.0.0.0:9464"


@pytest.mark.parametrize(
    ("port", "most"), [(0, 1), (9464, 64), (65472, 64), (65473, 63), (65534, 2), (65535, 1)]
)
def test_every_worker_needs_a_port_for_its_metrics(
    monkeypatch: pytest.MonkeyPatch, port: int, most: int
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    address = f"127.0.0.1:{port}"
    assert load_settings(metrics_listen=address, workers=most).metrics_listen == address
    if most < 64:
        with pytest.raises(ConfigError, match=f"{address} leaves no port to every worker"):
            load_settings(metrics_listen=address, workers=most + 1)


def test_several_workers_need_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(ConfigError, match="--workers: must be 1: only Linux"):
        load_settings(workers=2)
    assert load_settings(workers=1).workers == 1


@pytest.mark.parametrize("workers", ["0", "65", "many", "1.5"])
def test_a_number_of_workers_must_be_one(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConfigError, match="--workers"):
        load_settings(workers=workers)


def test_every_setting_is_described() -> None:
    rows = settings_table()
    assert [name.partition("=")[0] for name, _ in rows] == [
        f"CREDITLEDGER_{name.upper()}" for name in Settings.model_fields
    ]
    assert all(meaning for _, meaning in rows)
    assert dict(rows)["CREDITLEDGER_LANES=2"].endswith("(1 to 64)")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().lanes = 2
