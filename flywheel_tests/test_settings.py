"""Settings that could only lead astray are refused where they are read."""

from pathlib import Path

import pytest

from flywheel.errors import FlywheelError
from flywheel.settings import load_settings


@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
@pytest.mark.parametrize("name", ["price_per_hour", "baseline_price", "state_cache_gb"])
def test_an_amount_is_a_finite_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"FLYWHEEL_{name.upper()}", value)
    with pytest.raises(FlywheelError, match=rf"Settings are wrong: {name}: Input should be .* Mend flywheel\.toml"):
        load_settings(tmp_path)


def test_a_baseline_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_BASELINE_MODEL", "")
    with pytest.raises(FlywheelError, match=r"baseline_model: .* at least 1 character"):
        load_settings(tmp_path)
