"""numba kernels for compressed segments, equal to `encoder.maxsim` on decoded vectors within rounding.

Importing this package imports numba, a third of a second, so the searcher does it when it meets a compressed
segment.
"""

from retriever.kernels.codes import interaction, residual_maxsim
from retriever.kernels.compiling import each_on_a_thread
from retriever.kernels.lists import probe, unite
from retriever.kernels.tables import QueryTables

__all__ = ["QueryTables", "each_on_a_thread", "interaction", "probe", "residual_maxsim", "unite"]
