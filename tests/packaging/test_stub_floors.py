"""Generated code refuses a runtime older than its generator: no declared floor may be below that."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "client" / "creditledger" / "v1"


def _project(file: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    return project


def _floor(file: Path, name: str) -> Version:
    requirements = [Requirement(line) for line in _project(file)["dependencies"]]
    (requirement,) = [each for each in requirements if each.name == name]
    return max(Version(bound.version) for bound in requirement.specifier if bound.operator in (">=", "=="))


def _marks(pattern: str, mark: str) -> set[Version]:
    texts = [file.read_text(encoding="utf-8") for file in STUBS.glob(pattern)]
    return {Version(version) for text in texts for version in re.findall(mark, text)}


@pytest.mark.parametrize("pyproject", ["client/pyproject.toml", "pyproject.toml"])
@pytest.mark.parametrize(
    ("name", "pattern", "mark"),
    [
        ("grpcio", "*_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([0-9.]+)'"),
        ("protobuf", "*_pb2.py", r"# Protobuf Python Version: ([0-9.]+)"),
    ],
)
def test_generated_code_runs_on_the_oldest_runtime_allowed(
    pyproject: str, name: str, pattern: str, mark: str
) -> None:
    (generator,) = _marks(pattern, mark)
    assert generator <= _floor(ROOT / pyproject, name)


def test_the_server_is_released_with_its_client() -> None:
    client = _project(ROOT / "client" / "pyproject.toml")
    assert _floor(ROOT / "pyproject.toml", "creditledger") == Version(client["version"])
