import pytest

pytest.register_assert_rewrite("flywheel_tests.helpers")  # so that a helper that fails says what it saw
