"""What has to be set before a framework is imported: JAX with two devices, for shard_map; TensorFlow without its log. And `fw`,
for tests that are the same in every framework."""

import os

import pytest

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def pytest_generate_tests(metafunc):
    if "fw" in metafunc.fixturenames:
        from .frameworks import FRAMEWORKS  # takes seconds: not for tests without it

        metafunc.parametrize("fw", FRAMEWORKS.values(), ids=FRAMEWORKS, indirect=True)


@pytest.fixture
def fw(request):
    """A framework, as `frameworks` describes it."""
    with request.param.session():
        yield request.param
