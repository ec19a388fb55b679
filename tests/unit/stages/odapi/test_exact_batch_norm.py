"""Folding batch norms exactly, and unfolding them for the sample's checkpoint."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest

from stages.odapi.exact_batch_norm import fold
from stages.steps.oidv4_checkpoint import spread
from stages.tflite.tflite_weights import Convolution


def _root(value: Fraction, digits: int = 40) -> Fraction:
    scale = 10**digits
    return Fraction(isqrt(value.numerator * scale * scale // value.denominator), scale)


def test_fold_is_the_true_value_rounded() -> None:
    random = np.random.default_rng(1)
    gamma, beta, mean = (random.normal(0, 1, 64).astype(np.float32) for _ in range(3))
    variance = random.uniform(1e-6, 9, 64).astype(np.float32)
    scale, shift = fold(gamma, beta, mean, variance, 0.001)
    assert scale.dtype == shift.dtype == np.float32
    for i in range(64):
        root = _root(Fraction(float(variance[i])) + Fraction(0.001))
        exact = Fraction(float(gamma[i])) / root
        assert scale[i] == np.float32(float(exact))
        true_shift = Fraction(float(beta[i])) - Fraction(float(mean[i])) * exact
        # Here one float64 cancellation may come before the rounding.
        assert abs(float(true_shift) - float(shift[i])) <= np.spacing(np.abs(shift[i]))


def test_fold_without_gamma_and_beta() -> None:
    mean, variance = np.array([2], np.float32), np.array([3], np.float32)
    scale, shift = fold(None, None, mean, variance, 1.0)
    assert (scale[0], shift[0]) == (0.5, -1.0)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (3, 3, 8, 1)])
def test_spread_keeps_the_function(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(2)
    original = Convolution(random.normal(0, 1, shape), random.normal(0, 1, 8))
    kernel, gamma, beta, mean, variance = spread(original, 0.001, seed=5, number=3)
    scale, shift = gamma / np.sqrt(variance + 0.001), None
    shift = beta - mean * scale
    folded = kernel * (scale[:, None] if shape[-1] == 1 else scale)
    np.testing.assert_allclose(folded, original.kernel, rtol=1e-12)
    np.testing.assert_allclose(shift, original.bias, atol=1e-12)


def test_spread_is_far_from_the_defaults_and_seeded() -> None:
    original = Convolution(np.ones((1, 1, 2, 16)), np.zeros(16))
    first = spread(original, 0.001, seed=5, number=3)
    again = spread(original, 0.001, seed=5, number=3)
    other = spread(original, 0.001, seed=5, number=4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])
    _, gamma, _, mean, variance = first
    for values, default in ((gamma, 1), (mean, 0), (variance, 1)):
        assert np.mean(np.abs(values - default)) > 0.1
