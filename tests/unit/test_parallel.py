"""What ranks tell each other."""

import numpy as np
import pytest
from mpi4py import MPI

from femnn.parallel import exchanged, range_over_ranks

COMM = MPI.COMM_WORLD


@pytest.mark.parallel([1, 2, 3])
def test_ranges_keep_nan():
    last = COMM.rank == COMM.size - 1
    own = np.array([[1.0, -2.0 - COMM.rank, np.nan if last else 0.5]])
    first, second, third = range_over_ranks(COMM, own)
    np.testing.assert_array_equal(first, [1, 1])
    np.testing.assert_array_equal(second, [-1.0 - COMM.size, -2.0])
    assert np.isnan(third).all()
    assert np.isnan(range_over_ranks(COMM, np.empty((0, 1)))).all()
    only_last = np.array([[-np.inf], [3.0]]) if last else np.empty((0, 1))
    np.testing.assert_array_equal(range_over_ranks(COMM, only_last), [[-np.inf, 3.0]])


@pytest.mark.parallel([1, 2, 3])
def test_rows_reach_the_rank_that_they_are_for():
    """Rank 0 has none to send; row k of any rank is for rank k modulo their number."""
    n = 5 * COMM.rank if COMM.size > 1 else 5
    rows = np.column_stack([np.full(n, COMM.rank), np.arange(n)])
    found = exchanged(COMM, rows, np.arange(n) % COMM.size)
    expected = [
        [rank, k]
        for rank in range(COMM.size)
        for k in range(5 * rank if COMM.size > 1 else 5)
        if k % COMM.size == COMM.rank
    ]
    assert sorted(found.tolist()) == expected
