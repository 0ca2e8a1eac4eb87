"""Derivatives of every kind through the fused implementation, which has a backward pass of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.engine.torch import fused as torch_fused
from convlstm.torch import ConvLSTM, Forecaster

# forward-mode differentiation compiles a few of PyTorch's own formulas with its deprecated torch.jit.script
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "peephole": {"peephole": "channel"},
    "even kernels": {"kernel_size": (2, 3), "recurrent_kernel_size": (4, 1)},
    "strided": {"stride": 2, "peephole": "channel"},
    "valid": {"padding": "valid", "dilation": (1, 2)},
    "numbers": {"padding": (2, 1), "stride": (1, 2)},
    "both ways, two layers": {"bidirectional": True, "num_layers": 2},
    "no bias": {"bias": False, "direction": "reverse"},
}


def build(dtype: torch.dtype = torch.float64, **options: Any) -> ConvLSTM:
    layer = ConvLSTM(2, 3, **{"kernel_size": 3} | options, dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def frames(dtype: torch.dtype = torch.float64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 2, 5, 6, dtype=dtype)


def plainly(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> Any:
    """Return what the generic implementation makes of the same work."""
    with monkeypatch.context() as patch:
        patch.setattr(torch_fused, "serves", lambda *_: False)
        return work()


def loss_of(layer: ConvLSTM, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
    output, (h, c) = functional_call(layer, weights, x) if weights else layer(x)
    steps = torch.linspace(0.5, 1.5, output[0, :, 0, 0, 0].numel(), dtype=x.dtype)[:, None, None, None]
    return (output * steps).pow(2).sum() + sum((2 * a).sum() for a in h) + sum(a.pow(2).sum() for a in c)


def penalty(layer: ConvLSTM, x: Tensor) -> list[Tensor]:
    """Return the gradients of a gradient penalty, as WGAN-GP trains with."""
    inputs = x.clone().requires_grad_()
    (of_x,) = torch.autograd.grad(loss_of(layer, inputs), inputs, create_graph=True)
    value = of_x.pow(2).sum()
    return [value, *torch.autograd.grad(value, list(layer.parameters()))]


@pytest.mark.parametrize("name", SHAPES)
def test_first_derivatives_equal_the_generic_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = build(**SHAPES[name]), frames().requires_grad_()
    leaves = [x, *layer.parameters()]

    def work() -> list[Tensor]:
        loss = loss_of(layer, x)
        return [loss, *torch.autograd.grad(loss, leaves)]

    for a, b in zip(work(), plainly(monkeypatch, work), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # two orders of the same sums


@pytest.mark.parametrize("name", ["plain", "peephole", "even kernels", "valid"])
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    layer = ConvLSTM(1, 2, **{"kernel_size": 3} | SHAPES[name], dtype=torch.float64)
    names, weights = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(1, 3, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    grid = layer.spec.grids((4, 5))[0]
    h, c = (torch.randn(1, 2, *grid, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def run(x: Tensor, h: Tensor, c: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        output, (h_n, c_n) = functional_call(layer, dict(zip(names, given, strict=True)), (x, (h, c)))
        return output, *h_n, *c_n

    arguments = (x, h, c, *weights)
    assert gradcheck(run, arguments, fast_mode=True)
    assert gradgradcheck(run, arguments, fast_mode=True)


PLAIN: dict[str, dict[str, Any]] = {
    "layer norm": {"norm": "layer", "peephole": "pixel", "input_size": (4, 5)},
    "group norm": {"norm": "group", "norm_groups": 2, "recurrent_activation": "hard_sigmoid", "activation": "elu"},
    "both ways": {"bidirectional": True, "merge": "mul", "zoneout_h": 0.3, "zoneout_c": 0.2},
    "boundaries": {"boundary": ("circular", "reflect"), "groups": 2},
    "durations": {"duration_strategy": "mlp", "duration_features": "channel", "memory_decay": True},
    "exp": {"duration_strategy": "exp", "masked_output": "hold"},
    "checkpoint": {"checkpoint": 2, "peephole": "channel"},
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_gradcheck_and_gradgradcheck_of_the_generic_path(name: str, masked: bool) -> None:
    layer = ConvLSTM(2, 2, kernel_size=3, **PLAIN[name], dtype=torch.float64).eval()
    names, weights = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    given: dict[str, Any] = {"mask": torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool)} if masked else {}
    steps = torch.rand(2, 3, dtype=torch.float64) + 0.5
    given |= {"durations": steps} if layer.spec.duration_strategy != "none" else {}
    given |= {"gaps": steps + 1.0} if layer.spec.memory_decay else {}

    def run(x: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
        output, (h_n, c_n) = functional_call(layer, dict(zip(names, own, strict=True)), (x,), given)
        return output, *h_n, *c_n

    assert gradcheck(run, (x, *weights), fast_mode=True)
    assert gradgradcheck(run, (x, *weights), fast_mode=True)


@pytest.mark.parametrize("dims", [1, 3])
def test_gradcheck_in_one_and_three_dimensions(dims: int) -> None:
    layer = ConvLSTM(1, 2, 2, spatial_dims=dims, peephole="channel", dtype=torch.float64)
    x = torch.randn(2, 2, 1, *(3,) * dims, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: layer(x)[0], (x,))


@pytest.mark.parametrize("name", ["plain", "peephole", "both ways, two layers"])
def test_a_gradient_penalty_equals_the_generic_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = build(**SHAPES[name]), frames()
    ours, theirs = penalty(layer, x), plainly(monkeypatch, lambda: penalty(layer, x))
    assert ours[0] > 1.0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
        assert a.abs().max() > 0


def test_second_backward_pass_over_one_graph() -> None:
    layer, x = build(peephole="channel"), frames()
    loss = loss_of(layer, x)
    parameters = list(layer.parameters())
    first, second, third = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(3))
    for a, b, c in zip(first, second, third, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-12)


def test_each_result_alone_has_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = build(peephole="channel"), frames()
    for pick in (lambda o, s: o[:, 1], lambda o, s: s[0][0], lambda o, s: s[1][0]):

        def work(pick: Any = pick) -> tuple[Tensor, ...]:
            return torch.autograd.grad(pick(*layer(x)).pow(2).sum(), list(layer.parameters()))

        for a, b in zip(work(), plainly(monkeypatch, work), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l0", "bias_l0", "peephole_l0"])
def test_a_frozen_parameter_changes_no_other_gradient(frozen: str) -> None:
    layer, x = build(peephole="channel"), frames()
    loss_of(layer, x).backward()
    before = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    getattr(layer, frozen).requires_grad_(False)
    loss_of(layer, x).backward()
    for name, parameter in layer.named_parameters():
        if name == frozen:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, before[name], rtol=1e-13, atol=1e-13)


def test_transforms_of_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = build(peephole="channel"), frames()
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    direction = {name: torch.randn_like(p) for name, p in weights.items()}

    def loss(w: dict[str, Tensor]) -> Tensor:
        return loss_of(layer, x, w)

    by_grad = grad(loss)(weights)
    by_backward = dict(zip(weights, torch.autograd.grad(loss_of(layer, x), list(layer.parameters())), strict=True))
    _, tangent = jvp(loss, (weights,), (direction,))
    for name in weights:
        torch.testing.assert_close(by_grad[name], by_backward[name], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(jacrev(loss)(weights)[name], by_grad[name], rtol=1e-12, atol=1e-12)
    along = sum((by_grad[name] * direction[name]).sum() for name in weights)
    torch.testing.assert_close(tangent, along, rtol=1e-12, atol=1e-12)


def test_vmap_over_frames_and_gradients() -> None:
    layer = build(peephole="channel")
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    many = torch.stack([frames() for _ in range(3)])
    torch.testing.assert_close(
        vmap(lambda x: layer(x)[0])(many), torch.stack([layer(x)[0] for x in many]), rtol=1e-12, atol=1e-12
    )
    per_sample = vmap(grad(lambda w, x: loss_of(layer, x, w)), (None, 0))(weights, many)
    for n, x in enumerate(many):
        single = grad(lambda w, x=x: loss_of(layer, x, w))(weights)
        for name in weights:
            torch.testing.assert_close(per_sample[name][n], single[name], rtol=1e-12, atol=1e-12)


def test_a_hessian_is_symmetric_and_not_zero() -> None:
    layer = ConvLSTM(1, 1, 1, dtype=torch.float64)
    x = torch.randn(1, 3, 1, 2, 2, dtype=torch.float64)
    matrix = hessian(lambda x: layer(x)[0].pow(2).sum())(x).reshape(12, 12)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-12, atol=1e-13)
    assert matrix.abs().max() > 1e-3


def test_forward_mode() -> None:
    layer, x = build(peephole="channel"), frames()
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        found = forward_ad.unpack_dual(loss_of(layer, dual)).tangent
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(layer, inputs), inputs)
    torch.testing.assert_close(found, (gradient * tangent).sum(), rtol=1e-12, atol=1e-12)


def test_a_batch_of_gradients() -> None:
    layer, x = build(peephole="channel"), frames()
    output, _ = layer(x)
    many = torch.randn(3, *output.shape, dtype=output.dtype)
    batched = torch.autograd.grad(output, layer.weight_hh_l0, many, is_grads_batched=True)[0]
    for n in range(3):
        (single,) = torch.autograd.grad(layer(x)[0], layer.weight_hh_l0, many[n])
        torch.testing.assert_close(batched[n], single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    layer = build(peephole="channel", num_layers=2)
    x = frames().requires_grad_()
    expected = torch.autograd.grad(loss_of(layer, x), list(layer.parameters()))
    layer.zero_grad()
    checkpoint(lambda x: loss_of(layer, x), x, use_reentrant=reentrant).backward()
    for parameter, wanted in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-13, atol=1e-13)


def test_saved_tensor_hooks() -> None:
    layer, x = build(peephole="channel"), frames()
    parameters = list(layer.parameters())
    expected = torch.autograd.grad(loss_of(layer, x), parameters)
    packed = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t.shape)
        return t.clone()

    for hooks in (save_on_cpu(), saved_tensors_hooks(pack, lambda t: t), saved_tensors_hooks(lambda t: t, lambda t: t)):
        with hooks:
            loss = loss_of(layer, x)
        for a, b in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    assert len(packed) > 3


IN_PLACE: dict[str, dict[str, Any]] = {
    "both layers": {"num_layers": 2},
    "peephole and boundary": {"peephole": "channel", "boundary": "circular"},
    "plain": {},
    "time first": {"batch_first": False},
    "two layers": {"num_layers": 2},
    "both ways, separate": {"bidirectional": True, "merge": "separate"},
    "peephole": {"peephole": "channel"},
    "norm": {"norm": "layer"},
    "checkpoint": {"checkpoint": 2},
    "three dimensions": {"spatial_dims": 3},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", IN_PLACE)
def test_outputs_changed_in_place_leave_the_gradients_right(name: str, dtype: torch.dtype) -> None:
    layer = ConvLSTM(2, 4, 3, **IN_PLACE[name], dtype=dtype)
    x = torch.randn(2, 4, 2, *(6,) * layer.spec.spatial_dims, dtype=dtype, requires_grad=True)
    leaves = [x, *layer.parameters()]

    def gradients(*, in_place: bool) -> tuple[Tensor, ...]:
        output, (h, c) = layer(x, all_layers=name == "both layers")
        losses = []
        for part in (*(output if isinstance(output, tuple) else (output,)), h[0], c[-1]):
            changed = part if in_place else part.clone()
            changed[:, 0] = 0.5
            losses.append(torch.nn.functional.relu(changed, inplace=in_place).float().pow(2).sum())
        return torch.autograd.grad(sum(losses), leaves)

    tolerance = 1e-12 if dtype == torch.float64 else 3e-2  # in bfloat16 h is rounded from rounded gates
    for changed, kept in zip(gradients(in_place=True), gradients(in_place=False), strict=True):
        torch.testing.assert_close(changed, kept, rtol=tolerance, atol=tolerance * float(kept.abs().max()))


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_a_forecast_changed_in_place_leaves_the_gradients_right(rollout: str) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3)
    spec = ForecasterSpec(encoder=stack, patch_size=2, rollout=rollout, output_activation="sigmoid")
    model, x = Forecaster(spec, dtype=torch.float64), torch.rand(2, 3, 1, 6, 6, dtype=torch.float64)

    def gradients(*, in_place: bool) -> tuple[Tensor, ...]:
        future, (h, c) = model(x, 3, return_state=True)
        parts = [part if in_place else part.clone() for part in (future, *h, *c)]
        return torch.autograd.grad(sum(part.mul_(2).pow(2).sum() for part in parts), list(model.parameters()))

    for changed, kept in zip(gradients(in_place=True), gradients(in_place=False), strict=True):
        torch.testing.assert_close(changed, kept, rtol=1e-12, atol=1e-12)


def test_a_state_changed_after_a_checkpointed_call_leaves_the_gradients_right() -> None:
    layer, x = ConvLSTM(2, 4, 3, checkpoint=True), torch.randn(2, 5, 2, 6, 6)
    gradients = []
    for change in (False, True):
        state = (torch.ones(2, 4, 6, 6), torch.ones(2, 4, 6, 6))
        output, _ = layer(x, state)
        if change:
            state[0].zero_()
        gradients.append(torch.autograd.grad(output.sum(), list(layer.parameters())))
    assert all(torch.equal(kept, changed) for kept, changed in zip(*gradients, strict=True))


def test_a_graph_may_be_asked_for_inside_inference_mode() -> None:
    layer, x = ConvLSTM(2, 4, 3), torch.randn(2, 5, 2, 6, 6)
    with torch.inference_mode(), torch.enable_grad():
        inside = layer(x)[0]
    torch.testing.assert_close(inside.clone(), layer(x)[0])


def test_an_output_changed_under_no_grad_is_a_copy_for_the_next_call() -> None:
    layer, x = build(), frames()
    with torch.no_grad():
        first = layer(x)[0].clone()
        layer(x)[0].zero_()
        torch.testing.assert_close(layer(x)[0], first, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["plain", "peephole", "both ways, two layers"])
def test_a_second_backward_pass_gives_the_same_bits(name: str) -> None:
    layer, x = build(**SHAPES[name]), frames().requires_grad_()
    loss = loss_of(layer, x)
    first, second, third = (torch.autograd.grad(loss, [x, *layer.parameters()], retain_graph=True) for _ in range(3))
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_weight_changed_before_backward_is_an_error() -> None:
    layer, x = build(), frames()
    loss = loss_of(layer, x)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
