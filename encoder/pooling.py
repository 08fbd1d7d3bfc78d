"""Token pooling for documents (Clavié et al. 2024, arXiv 2409.14683): like vectors become their mean."""

from types import ModuleType

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_integer
from encoder.errors import ArgumentError, MissingDependencyError

__all__ = ["check_pool_factor", "check_unpooled", "pool_tokens"]

PROTECTED = 1  # the first token, CLS, keeps its own vector, as in PyLate


def pool_tokens(vectors: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    """One document's unit vectors (n, dim) → about n / factor unit vectors, the first of them untouched.

    Ward's clustering on cosine distances into (n - 1) // factor clusters; each becomes its mean direction,
    in the order of the clusters' first tokens.
    """
    own, rest = vectors[:PROTECTED], vectors[PROTECTED:]
    n_clusters = max(len(rest) // factor, 1)
    if n_clusters >= len(rest):
        return vectors
    hierarchy, distance = _scipy()
    distances = 1.0 - rest @ rest.T  # (n - 1, n - 1)
    np.fill_diagonal(distances, 0.0)
    # Rounding may put equal vectors a little below no distance at all.
    condensed = distance.squareform(np.maximum(distances, 0.0), checks=False)
    labels = hierarchy.fcluster(hierarchy.linkage(condensed, "ward"), n_clusters, "maxclust")
    _, first, cluster = np.unique(labels, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))  # by first token
    sums = np.zeros((len(first), vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, place[cluster], rest)
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return np.concatenate([own, sums])


def check_pool_factor(factor: int) -> int:
    """Raise ArgumentError for a factor that is none, MissingDependencyError where scipy is wanted and missing."""
    factor = as_integer(factor, "pool_factor", least=1)
    if factor > 1:
        _scipy()
    return factor


def check_unpooled(factor: int) -> None:
    """Raise ArgumentError where pooling leaves no vector for each token."""
    if factor != 1:
        raise ArgumentError(
            f"pool_factor={factor}: a vector stands for several tokens; index without pooling"
        )


def _scipy() -> tuple[ModuleType, ModuleType]:
    try:
        from scipy.cluster import hierarchy  # an extra
        from scipy.spatial import distance
    except ImportError as error:
        raise MissingDependencyError(
            "token pooling needs scipy, which is not installed; run `pip install 'latewood[pool]'`"
        ) from error
    return hierarchy, distance
