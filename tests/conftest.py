"""What every test may ask for: the real weights beside the repository, a Jupyter server, steady property tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from .running_jupyter_server import Server, start, stop

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
RESNET20 = REAL_DATA / "resnet20-cifar10.safetensors"

settings.register_profile(
    "shrinkwidget",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shrinkwidget")


@pytest.fixture(scope="session")
def resnet20() -> Path:
    """Return the path of the trained ResNet-20's weights."""
    if not RESNET20.is_file():
        pytest.skip("the trained ResNet-20 (shared/data beside the repository) is not here")
    return RESNET20


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a Jupyter server with the extension."""
    running = start(tmp_path_factory.mktemp("server"))
    yield running
    stop(running)


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """Return a new folder that the server shows."""
    found = server.folder / tmp_path.name
    found.mkdir()
    return found
