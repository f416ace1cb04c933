"""A linear map from an encoder's features to the output dimension, and the untrained one to start from."""

from dataclasses import dataclass

import numpy as np

_ROWS = 8192


@dataclass(frozen=True, eq=False)
class Head:
    """A linear map of features to the output dimension: `weight` (dim, width), `bias` (dim,), both float32."""

    weight: np.ndarray
    bias: np.ndarray

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Unit vectors, float32 (n, dim), of features (n, width)."""
        return unit(self.project(features))

    def project(self, features: np.ndarray) -> np.ndarray:
        """What `apply` gives, float32 (n, dim), before it is brought to length 1."""
        vectors = np.empty((len(features), len(self.bias)), np.float32)
        for start in range(0, len(features), _ROWS):
            vectors[start : start + _ROWS] = features[start : start + _ROWS].astype(np.float32) @ self.weight.T + self.bias
        return vectors

    def towards(self, other: "Head", place: float) -> "Head":
        """The head at a place on the line through both: this one at 0, `other` at 1."""
        return Head(between(self.weight, other.weight, place), between(self.bias, other.bias, place))

    def fold_scale(self, scale: np.ndarray) -> "Head":
        """The head that gives for features what this one gives for features times `scale` (width,)."""
        return Head(self.weight * scale, self.bias)

    def truncated(self, dim: int) -> "Head":
        """The head that gives the first `dim` numbers."""
        return Head(self.weight[:dim], self.bias[:dim])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Bring vectors (n, dim) to length 1, in place; those of length 0 stay."""
    for start in range(0, len(vectors), _ROWS):
        some = vectors[start : start + _ROWS]
        some /= np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
    return vectors


def between(start: np.ndarray, end: np.ndarray, place: float) -> np.ndarray:
    """The point at `place` on the line through two arrays of one shape: `start` at 0, `end` at 1, to the last bit."""
    return np.asarray((1 - place) * start + place * end)


def untuned_head(vectors: np.ndarray, dim: int) -> Head:
    """The untuned model at `dim`: projection on the first principal directions of unit vectors (n, width).

    Directions are eigenvectors of the uncentred second moments, so dot products survive as well as `dim` allows, and at
    the full width unchanged.
    """
    from scipy.linalg import eigh
    from threadpoolctl import threadpool_limits

    width = vectors.shape[1]
    vectors = vectors.astype(np.float64)
    with threadpool_limits(1):  # more threads gain little, and wait for each other many times as long on a busy machine
        _, directions = eigh(vectors.T @ vectors, subset_by_index=[width - dim, width - 1])
    leading = directions[:, ::-1].T
    leading *= np.sign(leading[np.arange(dim), np.abs(leading).argmax(axis=1)])[:, None]  # eigenvectors have no sign
    return Head(leading.astype(np.float32), np.zeros(dim, np.float32))
