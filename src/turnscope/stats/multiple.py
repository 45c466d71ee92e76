"""Control of false discoveries when many hypotheses are tested at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from turnscope.artifacts import DataError


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Benjamini-Hochberg adjusted p values, in the order given.

    Calling discoveries those at or below q keeps the expected share of false ones at or below q, for independent or
    positively dependent tests. Raises DataError for a value outside [0, 1], or NaN.

    >>> [round(float(q), 3) for q in benjamini_hochberg([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.053, 0.053, 0.5]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError("p values must lie in [0, 1]")
    return np.asarray(false_discovery_control(p, method="bh")) if p.size else p
