"""Levels and predictions: reading and writing a network's output in every parametrisation."""

import inspect
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import elevator.level as level_module
from elevator.level import (
    Level,
    Parametrisation,
    Prediction,
    read_clean,
    read_output,
    write_clean,
)
from tests.builders import make_latent

KINDS: tuple[Parametrisation, ...] = get_args(Parametrisation)

kinds = st.sampled_from(KINDS)
factors = st.floats(0.03, 15.0)


@st.composite
def levels(draw: st.DrawFn) -> Level:
    """A noise level of any schedule: on the circle, the line, alpha = 1, or on no curve at all."""
    sigma = draw(st.floats(0.03, 0.97))
    alpha, sigma = draw(
        st.sampled_from([((1 - sigma**2) ** 0.5, sigma), (1 - sigma, sigma), (1.0, 14 * sigma)])
    )
    scale = draw(st.just(1.0) | factors)
    return level(alpha * scale, sigma * scale)


def level(alpha: float, sigma: float) -> Level:
    return Level(
        torch.tensor(alpha, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64), None
    )


def largest(*values: float | Tensor) -> float:
    return max(map(float, values))


def output_of(kind: Parametrisation, clean: Tensor, noise: Tensor, at: Level) -> Tensor:
    """What a perfect network says, from the definitions."""
    match kind:
        case "epsilon":
            return noise
        case "sample":
            return clean
        case "v_prediction":
            length = (at.alpha**2 + at.sigma**2) ** 0.5
            return (at.alpha * noise - at.sigma * clean) / length
        case "flow_prediction":
            return noise - clean


SHAPE = (1, 2, 3, 2, 2)


@given(kinds, levels())
def test_a_perfect_output_reads_as_clean_and_noise(kind: Parametrisation, at: Level) -> None:
    clean, noise = make_latent(SHAPE, 1).double(), make_latent(SHAPE, 2).double()
    noisy = at.alpha * clean + at.sigma * noise
    got = read_output(output_of(kind, clean, noise, at), noisy, at, kind)
    # float32: whatever is divided by a small factor loses as much in precision
    loss = largest(1, at.sigma / at.alpha, at.alpha / at.sigma)
    torch.testing.assert_close(got.clean, clean.float(), rtol=0, atol=3e-6 * loss)
    torch.testing.assert_close(got.noise, noise.float(), rtol=0, atol=3e-6 * loss)


@given(kinds, levels())
def test_clean_and_noise_make_up_the_noisy_latent(kind: Parametrisation, at: Level) -> None:
    noisy, output = make_latent(SHAPE, 1), make_latent(SHAPE, 2)
    got = read_output(output, noisy, at, kind)
    size = largest(1, (at.alpha * got.clean).abs().max(), (at.sigma * got.noise).abs().max())
    torch.testing.assert_close(
        at.alpha * got.clean + at.sigma * got.noise, noisy, rtol=0, atol=3e-6 * size
    )
    assert torch.equal(read_clean(output, noisy, at, kind), got.clean)


@given(kinds, levels())
def test_writing_inverts_reading(kind: Parametrisation, at: Level) -> None:
    noisy, wanted, output = (make_latent(SHAPE, seed) for seed in (1, 2, 3))
    written = write_clean(wanted, noisy, at, kind)
    loss = largest(1, 1 / at.alpha, at.sigma / at.alpha)
    torch.testing.assert_close(
        read_clean(written, noisy, at, kind), wanted, rtol=0, atol=1e-5 * loss
    )
    loss = largest(1, at.alpha / at.sigma, 1 / at.sigma)
    torch.testing.assert_close(
        write_clean(read_clean(output, noisy, at, kind), noisy, at, kind),
        output,
        rtol=0,
        atol=1e-5 * loss,
    )


@given(kinds, levels(), factors)
def test_the_clean_estimate_does_not_depend_on_the_scale_of_the_latent(
    kind: Parametrisation, at: Level, scale: float
) -> None:
    """Variance-exploding and variance-preserving schedules are one latent in two units."""
    noisy, output = make_latent(SHAPE, 1), make_latent(SHAPE, 2)
    scaled = level(float(at.alpha) * scale, float(at.sigma) * scale)
    one = read_output(output, noisy, at, kind)
    other = read_output(output, noisy * scale, scaled, kind)
    torch.testing.assert_close(one.clean, other.clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.noise, other.noise, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_every_reading_is_finite(kind: Parametrisation) -> None:
    got = read_output(make_latent(SHAPE, 1), make_latent(SHAPE, 2), level(1.0, 0.0), kind)
    assert got.clean.isfinite().all()
    assert got.noise.isfinite().all()
    if kind == "sample":
        assert not got.noise.any()
    else:
        assert torch.equal(got.clean, make_latent(SHAPE, 2))


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "flow_prediction"])
def test_pure_noise_is_read_where_the_parametrisation_allows_it(kind: Parametrisation) -> None:
    got = read_output(make_latent(SHAPE, 1), make_latent(SHAPE, 2), level(0.0, 1.0), kind)
    assert got.clean.isfinite().all()
    assert torch.equal(got.noise, make_latent(SHAPE, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_float32_whatever_the_network_speaks(
    kind: Parametrisation, dtype: torch.dtype
) -> None:
    noisy, output = make_latent(SHAPE, 1).to(dtype), make_latent(SHAPE, 2).to(dtype)
    got = read_output(output, noisy, level(0.6, 0.8), kind)
    assert got.clean.dtype == got.noise.dtype == torch.float32
    assert write_clean(got.clean, noisy, level(0.6, 0.8), kind).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_may_differ_by_batch_row(kind: Parametrisation) -> None:
    noisy, output = make_latent((2, *SHAPE[1:]), 1), make_latent((2, *SHAPE[1:]), 2)
    alpha = torch.tensor([0.6, 0.9]).view(2, 1, 1, 1, 1)
    sigma = torch.tensor([0.8, 0.3]).view(2, 1, 1, 1, 1)
    both = read_output(output, noisy, Level(alpha, sigma, None), kind)
    for row in range(2):
        at = Level(alpha[row, 0, 0, 0, 0], sigma[row, 0, 0, 0, 0], None)
        one = read_output(output[row : row + 1], noisy[row : row + 1], at, kind)
        torch.testing.assert_close(Prediction(*(half[row : row + 1] for half in both)), one)


def test_an_unknown_prediction_type_is_named() -> None:
    unchecked: Any = inspect.unwrap(level_module._affine)  # users have no type checks
    with pytest.raises(ValueError, match="unknown") as error:
        unchecked(level(0.6, 0.8), "noise")
    assert str(error.value) == (
        "prediction type 'noise' is unknown; expected one of "
        "('epsilon', 'v_prediction', 'flow_prediction', 'sample')"
    )
