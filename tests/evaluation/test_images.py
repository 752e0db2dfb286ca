"""Which of many images are measured."""

import numpy as np

from evaluation.images import drawn_rows


def test_drawn_rows_are_of_the_whole_set_in_order_and_all_where_there_are_fewer() -> None:
    assert drawn_rows(5, 9, 0).tolist() == drawn_rows(5, 5, 1).tolist() == [0, 1, 2, 3, 4]
    rows = drawn_rows(10_000, 1000, 0)
    assert len(set(rows.tolist())) == 1000
    assert (np.diff(rows) > 0).all()
    shares = np.histogram(rows, bins=10, range=(0, 10_000))[0]
    assert shares.min() > 60
    assert np.array_equal(rows, drawn_rows(10_000, 1000, 0))
