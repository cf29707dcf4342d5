"""Solvers, inversion steps and initial noise against the reference's recorded tensors."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from elevator.level import Level, read_output
from elevator.samplers import DDIM, LCM, mixed_noise
from tests.parity.cases import folder_of, offer, read_tensors, rows_of

TOLERANCE = 1e-5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = folder_of(metafunc.config, "videoelevator")
    for name in ("schedulers", "mixed_latents"):
        if name in metafunc.fixturenames:
            found = [(folder / name, row) for row in rows_of(folder / name)]
            offer(metafunc, name, found, lambda case: case[1]["key"])


def _level(alphas_cumprod: Tensor, timestep: int) -> Level:
    product = alphas_cumprod[max(timestep, 0)].double()
    return Level(product.sqrt(), (1 - product).sqrt(), torch.tensor(float(timestep)))


def _never() -> Tensor:
    raise AssertionError("a deterministic step drew noise")


def test_solver_steps(schedulers: tuple[Path, dict[str, Any]]) -> None:
    path, row = schedulers
    tensors, key = read_tensors(path), row["key"]
    family, *kind, count, index = key.split("/")
    # The solvers work in any layout; frames are the batch here.
    noisy, output = (rearrange(tensors[k], "f c h w -> 1 c f h w") for k in ("x", "model_output"))
    table, t, spacing = tensors[f"{family}/alphas_cumprod"], row["t"], 1000 // int(count[1:])

    def check(name: str, got: Tensor) -> None:
        wanted = tensors[f"{key}/{name}"]
        torch.testing.assert_close(
            rearrange(got, "1 c f h w -> f c h w"), wanted, atol=TOLERANCE, rtol=TOLERANCE
        )

    level = _level(table, t)
    if family == "lcm":
        grid, position = tensors[f"{family}/{count}/t"].tolist(), int(index[1:])
        last = position == len(grid) - 1
        clean = Level(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(0.0))
        after = clean if last else _level(table, grid[position + 1])
        fresh = torch.randn(tensors["x"].shape, generator=torch.Generator().manual_seed(5))
        prediction = read_output(output, noisy, level, "epsilon")
        drawn = rearrange(fresh, "f c h w -> 1 c f h w")
        solved = LCM()(prediction, noisy, level, after, lambda: drawn)
        check("denoised", solved.clean)
        check("prev", solved.noisy)
        return
    (parametrisation,) = kind
    prediction = read_output(output, noisy, level, parametrisation)
    solved = DDIM()(prediction, noisy, level, _level(table, t - spacing), _never)
    check("ddim_x0", solved.clean)
    check("ddim_prev", solved.noisy)
    added = rearrange(tensors["noise"], "f c h w -> 1 c f h w")
    check("add_noise", (level.alpha * noisy + level.sigma * added).float())
    # Inversion: the latent is one step cleaner than the level it goes to.
    up = row["t_inv"]
    old, new = _level(table, up - spacing), _level(table, up)
    prediction = read_output(output, noisy, old, parametrisation)
    check("inv_x0", prediction.clean)
    check("inv_next", DDIM()(prediction, noisy, old, new, _never).noisy)


def test_mixed_noise(mixed_latents: tuple[Path, dict[str, Any]]) -> None:
    path, row = mixed_latents
    f, c, h, w = row["shape"]
    generator = torch.Generator().manual_seed(row["seed"])
    got = mixed_noise((1, c, f, h, w), row["alpha"], generator)
    wanted = read_tensors(path)[row["key"]]
    torch.testing.assert_close(
        rearrange(got, "1 c f h w -> f c h w"), wanted, atol=TOLERANCE, rtol=TOLERANCE
    )
    assert math.isclose(float(got.std()), 1, abs_tol=0.15)
