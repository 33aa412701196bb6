"""The benchmark of the data engine measures what it says, on few rows."""

from __future__ import annotations

import pytest

from look_again.bench.data_costs import TARGETS, DataSettings, measure, table


def test_all_figures_are_there(tmp_path):
    result = measure(DataSettings(rows=40, many=150, concurrency=8), tmp_path)
    assert set(TARGETS) <= set(result)
    assert result["rows_per_second"] > 20
    assert 0.5 < result["memory_40k_over_2k"] < 1.5
    assert 0 < result["resume_40k_seconds"] < 2
    assert "rows_per_second" in table(result)


@pytest.mark.parametrize("fields", [{"rows": 0}, {"many": 100}, {"concurrency": 0}])
def test_settings_that_measure_nothing(fields):
    with pytest.raises(ValueError, match="at least 1"):
        DataSettings(**fields)
