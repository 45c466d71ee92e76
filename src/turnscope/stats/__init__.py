"""Statistics by conversation: AUROC with intervals, shuffled controls, false discoveries. No torch."""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.stats.bootstrap import auroc_ci as auroc_ci
    from turnscope.stats.estimate import Estimate as Estimate
    from turnscope.stats.estimate import Withheld as Withheld
    from turnscope.stats.multiple import benjamini_hochberg as benjamini_hochberg
    from turnscope.stats.permutation import Equivalence as Equivalence
    from turnscope.stats.permutation import equivalence_90 as equivalence_90
    from turnscope.stats.permutation import permute_labels as permute_labels
    from turnscope.stats.permutation import permuted_aurocs as permuted_aurocs
    from turnscope.stats.ranks import auroc as auroc
    from turnscope.stats.ranks import auroc_all as auroc_all

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Equivalence": "permutation",
        "Estimate": "estimate",
        "Withheld": "estimate",
        "auroc": "ranks",
        "auroc_all": "ranks",
        "auroc_ci": "bootstrap",
        "benjamini_hochberg": "multiple",
        "equivalence_90": "permutation",
        "permute_labels": "permutation",
        "permuted_aurocs": "permutation",
    },
)
