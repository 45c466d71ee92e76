"""How much of a behaviour there may be where its monitor found little. No torch.

A conversation that holds the behaviour raises an alert with at least the chance that one of its turns does, the recall.
So the share of conversations that hold it is at most the share that raises alerts over the recall (Rogan and Gladen
1978, with no false alarm taken off, which can only make the bound larger). Both are uncertain: the share is bounded by
Clopper and Pearson (1934) and the recall from below, each at 97.5%, so that both hold with 95%.

    bound = min(1, CP_upper(alerted, n; .975) / recall_lower),    CP_upper(0, n; .975) = 1 - .025^(1/n), about 3.7 / n

(the "rule of three" of Hanley and Lippman-Hand 1983, with 3.7 for the 3 of 95%).
"""

from __future__ import annotations

from scipy.stats import beta

FORMULA = (
    "min(1, upper limit of conversations with an alert / lower limit of recall), each at 97.5 % "
    "(Clopper and Pearson 1934; Rogan and Gladen 1978)"
)


def highest_share(hits: int, n: int, error: float = 0.025) -> float:
    """Clopper and Pearson's upper limit of a share, one-sided.

    >>> round(highest_share(0, 100), 4)
    0.0362
    """
    return 1.0 if hits >= n else float(beta.ppf(1 - error, hits + 1, n - hits))


def highest_prevalence(alerted: int, n: int, recall_low: float) -> float:
    """95% upper bound of the share of conversations that hold the behaviour; 1 where recall may be 0.

    >>> round(highest_prevalence(0, 100, 0.5), 3)
    0.072
    """
    return 1.0 if recall_low <= 0 or n == 0 else min(1.0, highest_share(alerted, n) / recall_low)
