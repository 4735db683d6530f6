"""The cheapest exact way to one clipped contribution per patient, chosen by the net.

* `book-keeping`: all parameters sit in Linear layers that see one vector per patient. A patient's
  weight gradient is the outer product of output gradient and input, so its norm needs no gradient,
  and one matrix product per layer gives the clipped sum (Goodfellow 2015, arXiv:1510.01799; Bu et
  al. 2023, PMLR 202:3192). One backward pass, no memory per patient.
* `hooks`: convolutions, norms and embeddings, through Opacus' GradSampleModule.
* `per-patient`: units of different sizes (bags of tiles, visits). One backward pass a patient by
  plain autograd, unpadded; Opacus clips and adds up one patient at a time.

Every path is compared with a per-patient autograd loop in the tests. Nets in which patients meet,
or whose parameters Opacus would drop without a word, are refused with the reason.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from solblom_client.optimizer import KeyedDPOptimizer
from solblom_models.task import Task, Units
from solblom_protocol.errors import ConfigurationError

PathName = Literal["book-keeping", "hooks", "per-patient"]
HOOKED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
MEETING = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class GradientPath:
    """The path that was chosen, and why."""

    name: PathName
    reason: str


def choose_path(task: Task, model: nn.Module) -> GradientPath:
    """Return the cheapest exact path for this net.

    Raises:
        ConfigurationError: SB-107, the net cannot be trained with patient-level privacy.
    """
    owners = {
        name or "top module": module
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    for name, module in model.named_modules():
        if isinstance(module, MEETING):
            raise _refusal(name, module, "in which patients meet", "Use GroupNorm")
    if task.ragged:
        return GradientPath("per-patient", "the task's patients differ in size")
    if all(type(module) is nn.Linear for module in owners.values()):
        return GradientPath("book-keeping", "all parameters sit in linear layers")
    for name, module in owners.items():
        if type(module) not in HOOKED:
            raise _refusal(
                name,
                module,
                "whose parameters cannot be followed patient by patient",
                "Put parameters into Linear, Conv, GroupNorm, LayerNorm or Embedding layers",
            )
    problems = ModuleValidator.validate(model, strict=False)
    if problems:
        raise ConfigurationError("SB-107", f"Opacus refuses the net: {problems[0]}")
    return GradientPath("hooks", "the net has other layers than linear ones")


@contextmanager
def prepared(
    path: GradientPath, task: Task, model: nn.Module
) -> Iterator[Callable[[KeyedDPOptimizer, Units, Sequence[int]], None]]:
    """Give a function that puts the clipped sum over the chosen patients into an optimiser.

    Hooks that a path needs are gone when the block ends.
    """
    if path.name == "book-keeping":
        yield lambda optimizer, units, chosen: _book_keeping(task, model, optimizer, units, chosen)
    elif path.name == "per-patient":
        yield lambda optimizer, units, chosen: _per_patient(task, model, optimizer, units, chosen)
    else:
        wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum")
        try:
            yield lambda optimizer, units, chosen: _hooks(task, wrapped, optimizer, units, chosen)
        finally:
            wrapped.remove_hooks()
            wrapped.to_standard_module()


def _hooks(
    task: Task,
    wrapped: nn.Module,
    optimizer: KeyedDPOptimizer,
    units: Units,
    chosen: Sequence[int],
) -> None:
    if not len(chosen):
        optimizer.set_empty_sum()
        return
    with warnings.catch_warnings():
        # torch says so because patients' features need no gradient; nothing is wrong.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(task.losses(wrapped, units.batch(chosen)).sum())
    _drop_unbounded(optimizer)
    optimizer.clip_and_accumulate()
    for parameter in optimizer.params:
        parameter.grad_sample = None


def _per_patient(
    task: Task, model: nn.Module, optimizer: KeyedDPOptimizer, units: Units, chosen: Sequence[int]
) -> None:
    optimizer.set_empty_sum()
    for index in chosen:
        loss = task.losses(model, units.batch([index])).sum()
        gradients = torch.autograd.grad(loss, optimizer.params, allow_unused=True)
        for parameter, gradient in zip(optimizer.params, gradients, strict=True):
            whole = torch.zeros_like(parameter) if gradient is None else gradient
            parameter.grad_sample = whole.unsqueeze(0)
        _drop_unbounded(optimizer)
        optimizer.clip_and_accumulate()
        for parameter in optimizer.params:
            parameter.grad_sample = None


def _drop_unbounded(optimizer: KeyedDPOptimizer) -> None:
    """Set the contribution of a patient whose gradient is not finite to zero.

    Hostile weights could make it so for chosen patients; one such number would make the whole sum
    not a number, and whether an update comes at all would tell that the patient is there.
    """
    finite = torch.stack(
        [torch.isfinite(p.grad_sample.flatten(start_dim=1)).all(dim=1) for p in optimizer.params]
    ).all(dim=0)
    if not bool(finite.all()):
        for parameter in optimizer.params:
            shape = (-1, *[1] * (parameter.grad_sample.ndim - 1))
            parameter.grad_sample = torch.where(finite.view(shape), parameter.grad_sample, 0.0)


def _book_keeping(
    task: Task, model: nn.Module, optimizer: KeyedDPOptimizer, units: Units, chosen: Sequence[int]
) -> None:
    """Write the clipped sum into `summed_grad` without any per-patient gradient.

    For a layer with input a and output gradient g, a patient's weight gradient is g a^T, so its
    squared norm is |g|^2 |a|^2, and |g|^2 for the bias. Factors as Opacus': C / (norm + 1e-6).
    """
    optimizer.set_empty_sum()
    if not len(chosen):
        return
    layers = [m for m in model.modules() if type(m) is nn.Linear and m.weight.requires_grad]
    calls: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []
    handles = [layer.register_forward_hook(_record(calls)) for layer in layers]
    try:
        losses = task.losses(model, units.batch(chosen))
    finally:
        for handle in handles:
            handle.remove()
    _check_calls(calls, layers, len(chosen))
    gradients = torch.autograd.grad(losses.sum(), [output for _, _, output in calls])
    squared = torch.zeros(len(chosen), device=losses.device)
    for (layer, inputs, _), gradient in zip(calls, gradients, strict=True):
        inside = inputs.square().sum(dim=1) + (0.0 if layer.bias is None else 1.0)
        squared += gradient.square().sum(dim=1) * inside
    factor = (optimizer.max_grad_norm / (squared.sqrt() + 1e-6)).clamp(max=1.0)
    bounded = torch.isfinite(squared)[:, None]
    for (layer, inputs, _), gradient in zip(calls, gradients, strict=True):
        clipped = torch.where(bounded, gradient * factor[:, None], 0.0)
        optimizer.add_to_sum(layer.weight, clipped.T @ torch.where(bounded, inputs, 0.0))
        if layer.bias is not None:
            optimizer.add_to_sum(layer.bias, clipped.sum(dim=0))


def _record(
    calls: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]],
) -> Callable[[Any, Any, Any], None]:
    def hook(layer: Any, inputs: Any, output: Any) -> None:
        calls.append((layer, inputs[0].detach(), output))

    return hook


def _check_calls(
    calls: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]], layers: list[nn.Linear], batch: int
) -> None:
    """Refuse what the norm formula does not cover.

    Raises:
        ConfigurationError: SB-107, a layer or a weight was used twice or not at all, or a layer
            sees more than one vector per patient.
    """
    if len({id(layer.weight) for layer in layers}) != len(layers):
        raise ConfigurationError("SB-107", "Two linear layers share a weight")
    seen = [id(layer) for layer, _, _ in calls]
    if sorted(seen) != sorted(id(layer) for layer in layers):
        raise ConfigurationError("SB-107", "A linear layer is used twice, or not at all")
    if any(inputs.ndim != 2 or len(inputs) != batch for _, inputs, _ in calls):
        raise ConfigurationError(
            "SB-107",
            "A linear layer sees more than one vector per patient",
            "Mark the task as ragged: its patients are then trained one at a time",
        )


def _refusal(name: str, module: nn.Module, what: str, hint: str) -> ConfigurationError:
    kind = type(module).__name__
    return ConfigurationError("SB-107", f"The net has {name} ({kind}), {what}", hint)
