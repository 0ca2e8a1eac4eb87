"""The private names of PyTorch that the fused implementation leans on, and when it is taken."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, vmap

from convlstm.engine.torch import buffers as torch_memory
from convlstm.engine.torch import convolution as torch_convolution
from convlstm.engine.torch import fused as torch_fused
from convlstm.engine.torch import modes as torch_modes
from convlstm.torch import ConvLSTM


def build(**options: Any) -> ConvLSTM:
    return ConvLSTM(2, 3, 3, **options)


def frames() -> Tensor:
    return torch.randn(2, 4, 2, 5, 6)


def gradients(layer: ConvLSTM, x: Tensor) -> list[Tensor]:
    output, (h, c) = layer(x)
    loss = output.pow(2).sum() + h[0].sum() + c[0].pow(2).sum()
    return list(torch.autograd.grad(loss, list(layer.parameters())))


def test_the_private_names_exist_and_tell_the_truth() -> None:
    """Three private names of PyTorch, and operators that may be missing: a release that drops them shows here."""
    assert not torch_modes.transforms_are_active()
    seen = []
    grad(lambda x: (seen.append(torch_modes.transforms_are_active()), x.sum())[1])(torch.ones(2))
    vmap(lambda x: (seen.append(torch_modes.transforms_are_active()), x)[1])(torch.ones(2))
    with forward_ad.dual_level():
        seen.append(torch_modes.transforms_are_active())
    assert seen == [True, True, True]
    assert not torch_modes.transforms_are_active()
    vmap(lambda x: (seen.append(torch_modes.are_batched([None, x])), x)[1])(torch.ones(2))
    assert seen[-1]
    assert not torch_modes.are_batched([torch.ones(2), None])
    assert torch_convolution._has_sum(torch.float32) == torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("present", [True, False])
def test_the_private_convolution_with_sum_changes_nothing(present: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = build(peephole="channel"), frames()
    if not present:
        monkeypatch.setattr(torch_convolution, "_has_sum", lambda dtype: False)
    got = gradients(layer, x)
    monkeypatch.setattr(torch_fused, "serves", lambda *_: False)
    for a, b in zip(got, gradients(layer, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # float32 sums of 480 terms in another order


def test_a_build_without_the_operator_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise AttributeError("no such operator")

    torch_convolution._has_sum.cache_clear()
    monkeypatch.setattr(torch_convolution, "convolution_with_sum", missing)
    assert torch_convolution._has_sum(torch.float32) is False
    torch_convolution._has_sum.cache_clear()


def test_the_fused_path_is_taken_and_left_where_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    quick = torch_fused.sequence
    monkeypatch.setattr(torch_fused, "sequence", lambda *a, **k: (calls.append(1), quick(*a, **k))[1])

    def taken(*, train: bool = False, given: Any = None, **options: Any) -> bool:
        calls.clear()
        build(**options).train(train)(frames(), **(given or {}))
        return bool(calls)

    assert taken()
    assert taken(peephole="channel", train=True)
    assert taken(train=True, input_dropout=0.5)
    assert taken(train=True, num_layers=2, dropout=0.5)
    assert taken(recurrent_dropout=0.5)
    assert not taken(train=True, recurrent_dropout=0.5)
    assert not taken(given={"lengths": [1, 2]})
    for option in ({"norm": "layer"}, {"activation": "relu"}, {"recurrent_activation": "hard_sigmoid"}, {"groups": 1}):
        assert taken(**option) == (option == {"groups": 1})
    for option in ({"boundary": "circular"}, {"zoneout_h": 0.1}, {"peephole": "pixel", "input_size": (5, 6)}):
        assert not taken(**option)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> torch_memory._Pool:
    fresh = torch_memory._Pool()
    monkeypatch.setattr(torch_memory, "_POOL", fresh)
    return fresh


def taken_array(mebibytes: int) -> Tensor:
    shape = (mebibytes, 1, 512, 512)
    return torch_memory.empty(shape, torch.ones(()), torch.channels_last, torch.float32)


def test_memory_comes_back_and_is_used_again(pool: torch_memory._Pool) -> None:
    first = taken_array(8)
    place, view = first.data_ptr(), first[1:, :, ::2]
    del first
    assert (pool.used_bytes, pool.waiting_bytes) == (8 << 20, 0)  # a view holds it
    del view
    assert (pool.used_bytes, pool.waiting_bytes) == (0, 8 << 20)
    again, other = taken_array(8), taken_array(8)
    assert again.data_ptr() == place != other.data_ptr()
    assert again.is_contiguous(memory_format=torch.channels_last)


def test_memory_that_waits_is_bounded(pool: torch_memory._Pool) -> None:
    for mebibytes in (8, 16, 32, 64, 32, 16, 8):
        taken_array(mebibytes)
        assert pool.waiting_bytes <= 72 << 20
    pool.shrink(0)
    assert pool.waiting_bytes == 0
    assert taken_array(2).untyped_storage().resizable()  # the C library keeps small ones itself


def test_buffers_survive_garbage_collection_in_threads(pool: torch_memory._Pool) -> None:
    """`python benchmarks/memory_pool.py` takes a million."""

    def take() -> None:
        for n in range(1000):
            area = pool.take(4096 * (1 + n % 24))
            cycle = [area]
            cycle.append(cycle)  # only garbage collection ends it

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with ThreadPoolExecutor(4) as threads:
            for job in [threads.submit(take) for _ in range(4)]:
                job.result()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert pool.used_bytes == 0


def test_a_layer_takes_no_new_memory_for_the_same_call_again(pool: torch_memory._Pool) -> None:
    layer, x = ConvLSTM(4, 32, 3), torch.randn(2, 6, 4, 64, 64)
    held = []
    for _ in range(4):
        layer(x)[0].sum().backward()
        held.append(pool.waiting_bytes)
        assert pool.used_bytes == 0
    assert len(set(held)) == 1
    torch_memory.release_memory()
    assert pool.waiting_bytes == 0


def test_a_checkpointed_call_leaves_nothing_waiting(pool: torch_memory._Pool) -> None:
    layer, x = ConvLSTM(4, 32, 3, checkpoint=12), torch.randn(1, 48, 4, 64, 64)
    output, _ = layer(x)
    assert pool.peak_bytes > 4 * torch_memory._MIN_POOLED_BYTES  # the segments took theirs from the pool
    assert pool.waiting_bytes == 0
    assert output.shape[1] == 48


def test_outputs_keep_their_values_while_other_calls_run(pool: torch_memory._Pool) -> None:
    layer, x = ConvLSTM(4, 32, 3), torch.randn(2, 6, 4, 64, 64)
    with torch.no_grad():
        outputs = [layer(x * scale)[0] for scale in (1.0, 2.0, 3.0)]
        for scale, output in zip((1.0, 2.0, 3.0), outputs, strict=True):
            assert torch.equal(output, layer(x * scale)[0])
