"""Facts of networks: found once in a run, anew in the next, and anew at every call outside one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import elevator as el
from elevator.hook import Step
from elevator.hosts import facts
from elevator.hosts.facts import facts_of, looked_up
from tests.builders import make_latent, sample, tiny_sd
from tests.hosts.loops import looking


def _denoiser(pipe: Any) -> Any:
    return el.denoiser(pipe, prompt_embeds=make_latent((1, 5, 16)), guidance=1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The networks that were looked through."""
    seen: list[Any] = []
    look = facts._look

    def counted(network: Any) -> Any:
        seen.append(network)
        return look(network)

    monkeypatch.setattr(facts, "_look", counted)
    return seen


def test_facts_are_those_of_the_network() -> None:
    pipe = tiny_sd()
    found = facts_of(pipe.unet)
    assert (found.network, found.dtype, found.memories) == (pipe.unet, torch.float32, [])
    assert facts_of(pipe.unet.to(torch.float16)).dtype == torch.float16


def test_inside_they_are_found_once_outside_at_every_call(looks: list[Any]) -> None:
    one, other = tiny_sd().unet, tiny_sd().unet
    known: facts.FactsById = {}
    for _ in range(3):
        with looked_up(known):
            assert facts_of(one) is facts_of(one)
            assert facts_of(other).network is other
    assert looks == [one, other]
    facts_of(one)
    facts_of(one)
    assert looks == [one, other, one, one]


def test_a_run_looks_once_and_the_next_one_anew(looks: list[Any]) -> None:
    host, guest = tiny_sd(), tiny_sd()
    told = _denoiser(guest)
    dtypes: list[torch.dtype] = []

    def ask(clean: Tensor, step: Step) -> None:
        told(clean, step.level)
        dtypes.append(facts_of(guest.unet).dtype)

    with el.attach(host, looking(ask), frames=3):
        sample(host, steps=4)
        assert looks == [guest.unet]
        guest.unet.to(torch.bfloat16)
        sample(host, steps=4)
    assert looks == [guest.unet, guest.unet]
    assert dtypes == [torch.float32] * 4 + [torch.bfloat16] * 4


def test_a_denoiser_outside_a_run_sees_what_a_network_is_now() -> None:
    pipe = tiny_sd()
    told = _denoiser(pipe)
    latent, level = make_latent((1, 4, 3, 8, 12)), told.schedule[400]
    before = told(latent, level).noise
    pipe.unet.to(torch.bfloat16)
    torch.testing.assert_close(told(latent, level).noise, before, atol=0.1, rtol=0.1)
