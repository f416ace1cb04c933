"""What every test of this room begins with."""

from collections.abc import Iterator

import pytest
from dagster._core.storage.defs_state.base import set_defs_state_storage


@pytest.fixture(autouse=True)
def no_instance_of_another_test() -> Iterator[None]:
    """Dagster forgets an instance that was entered twice only once, and then loads no definitions once it is gone."""
    with set_defs_state_storage(None):
        yield


@pytest.fixture(autouse=True, scope="module")
def no_instance_of_another_file() -> Iterator[None]:
    """The same for what all tests of a file share."""
    with set_defs_state_storage(None):
        yield
