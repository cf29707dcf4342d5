"""LowPass against tensors recorded from VideoElevator's published filters.

With `--goldens DIR` every case in DIR/videoelevator/filters.*; without it a small selection that
lies in tests/data (latents cut to one channel).
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elevator.filters import LowPass
from tests.builders import make_run, make_step
from tests.parity.cases import folder_of, offer, read_tensors, rows_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = folder_of(metafunc.config, "videoelevator")
    cases = rows_of(folder / "filters")
    if "evenly" in metafunc.fixturenames:
        cases = [case for case in cases if _agrees_by_default(case)]
        offer(metafunc, "evenly", cases, lambda case: case["key"])
    else:
        offer(metafunc, "case", cases, lambda case: case["key"])
    metafunc.parametrize("folder", [folder], ids=[""])


def _agrees_by_default(case: dict[str, Any]) -> bool:
    even = all(size % 2 == 0 for size in case["shape"][2:])
    filters = case["d_s"] > 0 and case["d_t"] > 0
    return even and filters and case["method"] in ("gaussian", "butterworth")


@cache
def _tensors(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "filters")


def _hook(case: dict[str, Any], convention: Any) -> LowPass:
    return LowPass(
        case["method"],
        spatial=case["d_s"],
        temporal=case["d_t"],
        order=case.get("n", 4),
        convention=convention,
    )


def _filtered(hook: LowPass, latent: Tensor) -> tuple[Tensor, Tensor]:
    run = make_run(tuple(latent.shape))  # type: ignore[arg-type]
    mask = hook.init(run)
    assert mask is not None
    return hook.update(latent, make_step(run), mask)[0], mask


def test_freeinit_convention_is_the_published_filter(case: dict[str, Any], folder: Path) -> None:
    tensors, key = _tensors(folder), case["key"]
    latent = tensors[f"{key.split('/')[0]}/x"]
    filtered, mask = _filtered(_hook(case, "freeinit"), latent)

    # Published: over the shifted, full spectrum. Ours: its even part over the half spectrum.
    published = torch.fft.ifftshift(tensors[f"{key}/mask"])
    mirrored = published.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2))
    even = ((published + mirrored) / 2)[..., : latent.shape[-1] // 2 + 1]
    torch.testing.assert_close(mask, even, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(filtered, tensors[f"{key}/mix_zeros"], rtol=1e-5, atol=1e-5)


def test_default_convention_is_the_published_filter_at_even_sizes(
    evenly: dict[str, Any], folder: Path
) -> None:
    tensors, key = _tensors(folder), evenly["key"]
    filtered, _ = _filtered(_hook(evenly, "nyquist"), tensors[f"{key.split('/')[0]}/x"])
    torch.testing.assert_close(filtered, tensors[f"{key}/mix_zeros"], rtol=1e-5, atol=1e-5)
