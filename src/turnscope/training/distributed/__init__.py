"""One dictionary trained by several processes (`torchrun -m turnscope train`), to what one process would have made.

Features are sharded by rows of the parameters, the batch by its rows, or both (`mesh.py`). The step sends what it must
by collectives of its own (`topk.py`, `select.py`) and takes from torch the mesh, the process groups, and DTensor where
a sharded tensor is put together (`files.py`). The step itself is not written in DTensor: sparse codes have another
length on every process, which a DTensor cannot have; and for the exact cut of a batch DTensor would gather all
pre-activations, where three histograms do.
"""
