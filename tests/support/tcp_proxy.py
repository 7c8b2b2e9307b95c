"""A TCP proxy that stands between a server and its Postgres, or a caller and its server, and does harm.

It passes bytes on late, in slices, not at all for a time, or not any more. What happens at exact points of the protocol
is up to a ``Watch``, which sees every chunk before it is passed on.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import psycopg

Address = str | tuple[str, int]
"""Of a Unix socket, or host and port."""


class Cut(Exception):
    """The connection ends here. ``passed`` goes on before that; with ``deaf``, nobody gets the answer to it."""

    def __init__(self, passed: bytes = b"", deaf: bool = False) -> None:
        super().__init__()
        self.passed = passed
        self.deaf = deaf


class Watch:
    """Sees the bytes of one connection; may raise Cut instead of passing them on. This one passes everything."""

    def upward(self, data: bytes) -> bytes:
        """Bytes from the side that connected."""
        return data

    def downward(self, data: bytes) -> bytes:
        """Bytes from the side that was connected to."""
        return data


class TcpProxy:
    """Listens on a free port of 127.0.0.1 and connects each connection on to ``address``.

    ``delay`` is a range of seconds that each chunk waits, ``slice_bytes`` the most that is sent at once (0: all).
    A new connection is ended at once unless it ``admits`` them.
    """

    def __init__(
        self, address: Address, watch: Callable[[], Watch] = Watch, admits: Callable[[], bool] = lambda: True
    ) -> None:
        self.address = address
        self.delay = (0.0, 0.0)
        self.slice_bytes = 0
        self._watch = watch
        self._admits = admits
        self._gate = threading.Condition()
        self._stalled = False
        self._moving = 0
        self._open: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> TcpProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.resume()
        self.reset(1.0)

    def reset(self, share: float) -> int:
        """Ends a share of the connections, by RST towards those who connected; returns how many."""
        chosen = [each for each in list(self._open) if random.random() < share]
        for connection in chosen:
            connection.end(reset=True)
        return len(chosen)

    def stall(self) -> None:
        """From its return on no byte passes, in either direction, and nothing connects."""
        with self._gate:
            self._stalled = True
            self._gate.wait_for(lambda: not self._moving)

    def resume(self) -> None:
        """Lets everything pass that has waited."""
        with self._gate:
            self._stalled = False
            self._gate.notify_all()

    def move(self, send: Callable[[bytes], None], data: bytes) -> None:
        """Passes bytes on, when and how it is allowed."""
        with self._gate:
            self._gate.wait_for(lambda: not self._stalled)
            self._moving += 1
        try:
            if self.delay[1]:
                time.sleep(random.uniform(*self.delay))
            step = self.slice_bytes or len(data)
            for start in range(0, len(data), step):
                send(data[start : start + step])
        finally:
            with self._gate:
                self._moving -= 1
                self._gate.notify_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with self._gate:
            self._gate.wait_for(lambda: not self._stalled)
        try:
            if not self._admits():
                raise ConnectionRefusedError
            far = _connect(self.address)
        except OSError:
            near.close()
            return
        connection = _Connection(self, near, far, self._watch())
        self._open.add(connection)
        try:
            connection.serve()
        finally:
            self._open.discard(connection)


class _Connection:
    def __init__(self, proxy: TcpProxy, near: socket.socket, far: socket.socket, watch: Watch) -> None:
        self._proxy = proxy
        self._near = near
        self._far = far
        self._watch = watch
        self._deaf = False
        self._reset = False

    def serve(self) -> None:
        """Passes bytes on until a side ends."""
        answers = threading.Thread(target=self._pass_answers, daemon=True)
        answers.start()
        try:
            while data := self._near.recv(1 << 16):
                self._proxy.move(self._far.sendall, self._watch.upward(data))
        except Cut as cut:
            self._cut(cut, self._far.sendall, answers)
        except OSError:
            pass
        self.end()
        answers.join()
        self._near.close()
        self._far.close()

    def end(self, reset: bool = False) -> None:
        """Ends both sides, so that both notice. With ``reset`` the close that follows sends RST to the near side."""
        self._reset = self._reset or reset
        with suppress(OSError):
            if self._reset:
                self._near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._near.shutdown(socket.SHUT_RD if self._reset else socket.SHUT_RDWR)
        with suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)

    def _cut(self, cut: Cut, send: Callable[[bytes], None], answers: threading.Thread) -> None:
        self._deaf = cut.deaf
        with suppress(OSError):
            if cut.deaf:
                self._near.shutdown(socket.SHUT_RDWR)
            if cut.passed:
                send(cut.passed)
            if cut.deaf:
                self._far.shutdown(socket.SHUT_WR)
                answers.join(10)

    def _pass_answers(self) -> None:
        """Those that nobody takes any more are read all the same, to their end."""
        with suppress(OSError):
            try:
                while data := self._far.recv(1 << 16):
                    if not self._deaf:
                        self._proxy.move(self._near.sendall, self._watch.downward(data))
            except Cut as cut:
                if cut.passed:
                    self._near.sendall(cut.passed)
        if not self._deaf:
            self.end()


def postgres_address(dsn: str) -> Address:
    """Where the Postgres of a DSN listens."""
    with psycopg.connect(dsn) as conn:
        host, port = conn.info.host, conn.info.port
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def dsn_through(proxy: TcpProxy, dsn: str) -> str:
    """The same database by way of a proxy, in clear text so that the proxy understands it."""
    with psycopg.connect(dsn) as conn:
        user, database = quote(conn.info.user), quote(conn.info.dbname)
        password = f":{quote(conn.info.password)}" if conn.info.password else ""
    return (
        f"postgresql://{user}{password}@127.0.0.1:{proxy.port}/{database}?sslmode=disable&gssencmode=disable"
    )


def _connect(address: Address) -> socket.socket:
    if isinstance(address, str):
        far = socket.socket(socket.AF_UNIX)
        far.connect(address)
        return far
    far = socket.create_connection(address)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return far
