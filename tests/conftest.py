"""What every test may ask for: the real weights beside the repository, and steady settings for property tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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
