"""The two wheels as a user gets them: what is in them, and that they work in clean environments."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Imports every module of the packages named, as a user's program might; what is behind an extra, where that is.
IMPORT_ALL = """
import importlib, importlib.util, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.startswith("creditledger.cli.") or importlib.util.find_spec("click"):
            importlib.import_module(module.name)
"""


class Environment:
    """A virtual environment with nothing in it, and an empty folder to run in."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=False)
        self.bin = folder / "venv" / "bin"
        self._empty = folder / "empty"
        self._empty.mkdir()

    def install(self, *wheels: Path | str) -> None:
        options = ["--quiet", "--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt")]
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python")]
        subprocess.run([*pip, "install", *options, *map(str, wheels)], check=True)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / program), *arguments]
        return subprocess.run(command, cwd=self._empty, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(ROOT / "client", tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def server_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(ROOT, tmp_path_factory.mktemp("server"))


def _build(project: Path, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(project),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def test_the_client_wheel_holds_the_client_only(client_wheel: Path) -> None:
    names = _names(client_wheel)
    assert {name.partition("/")[0] for name in names} == {"creditledger", "creditledger-0.1.0.dist-info"}
    assert {"creditledger/py.typed", "creditledger/v1/credit_ledger_pb2.pyi"} <= set(names)
    requirements = [
        line for line in _metadata(client_wheel).splitlines() if line.startswith("Requires-Dist:")
    ]
    assert not [line for line in requirements if "psycopg" in line or "creditledger-server" in line]


def test_the_server_wheel_holds_the_server_and_its_migrations(server_wheel: Path) -> None:
    names = _names(server_wheel)
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"creditledger_server", "creditledger_migrations", "creditledger_server-0.1.0.dist-info"}
    assert {"creditledger_server/py.typed", "creditledger_migrations/env.py"} <= set(names)
    versions = ROOT / "migrations" / "creditledger_migrations" / "versions"
    files = [*versions.glob("*.py"), *versions.glob("*.sql")]
    assert {f"creditledger_migrations/versions/{file.name}" for file in files} <= set(names)


def test_the_client_works_alone(client_wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    environment.install(client_wheel)
    imported = environment.run("python", "-W", "error", "-c", IMPORT_ALL, "creditledger")
    assert (imported.returncode, imported.stderr) == (0, "")
    driver = environment.run("python", "-c", "import psycopg")
    assert "ModuleNotFoundError" in driver.stderr
    # The extra is not installed, and the command says so.
    command = environment.run("creditledger", "balance", "user-1")
    assert (command.returncode, command.stdout) == (1, "")
    assert command.stderr == (
        "error: the command needs more than the library; run: pip install 'creditledger[cli]'\n"
    )


def test_the_command_works_with_its_extra(client_wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    environment.install(f"{client_wheel}[cli]")
    printed = environment.run("creditledger", "--version")
    assert (printed.returncode, printed.stdout) == (0, "creditledger, version 0.1.0\n")
    # Nobody serves there; a read tells it, and gets as far as that.
    read = environment.run("creditledger", "balance", "user-1", "--target", "127.0.0.1:1")
    assert (read.returncode, read.stdout, read.stderr.count("error: UNAVAILABLE: ")) == (1, "", 1)


def test_the_library_loads_nothing_of_the_command() -> None:
    program = "import sys, creditledger; print(sys.modules.keys() & {'click', 'rich', 'creditledger.cli'})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_the_server_works_from_its_wheel(client_wheel: Path, server_wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    environment.install(client_wheel, server_wheel)
    # Without -W error: what some dependency warns of when all of it is imported is not the user's to see or to mend.
    packages = ("creditledger", "creditledger_server")
    imported = environment.run("python", "-c", IMPORT_ALL, *packages)
    assert (imported.returncode, imported.stderr) == (0, "")
    printed = environment.run("creditledger-server", "migrate", "--sql")
    assert "CREATE TABLE" in printed.stdout
    # The extra is not installed, and the command says so.
    served = environment.run("creditledger-server", "serve")
    assert (served.returncode, served.stderr.count("error: ")) == (1, 1)
    assert "creditledger-server[embedded]" in served.stderr
