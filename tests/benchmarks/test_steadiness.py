"""The slope of what is measured over the steps."""

import numpy as np
import pytest

from benchmarks.steadiness import slope_of


def test_a_line_has_its_slope_and_what_stays_the_same_has_none() -> None:
    x = np.arange(10.0)
    assert slope_of(x, 3 * x + 1) == pytest.approx((3.0, 3.0, 3.0))
    assert slope_of(x, np.full(10, 3.0)) == (0.0, 0.0, 0.0)  # SciPy's interval is NaN there
    slope, low, high = slope_of(x, x + np.tile([0.0, 1.0], 5))
    assert low < slope < high
