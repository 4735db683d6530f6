"""The cheapest exact way to one clipped contribution per patient, chosen by the net.

* `book-keeping`: all parameters sit in Linear layers that see one vector per patient. A patient's
  weight gradient is the outer product of output gradient and input, so its norm needs no gradient,
  and one matrix product per layer gives the clipped sum (Goodfellow 2015, arXiv:1510.01799; Bu et
  al. 2023, PMLR 202:3192). One backward pass, no memory per patient.
* `grad-samplers`: convolutions, norms and embeddings. One backward pass down to the layers' outputs,
  then Opacus' formula for each kind of layer gives its per-patient gradients. Opacus' own module
  would compute the batch's gradient beside them and throw it away.
* `per-patient`: units of different sizes (bags of tiles, visits). One backward pass a patient by
  plain autograd, unpadded; Opacus clips and adds up one patient at a time.

Every path is compared with a per-patient autograd loop in the tests. Nets in which patients meet,
whose parameters Opacus would drop without a word, or that change a layer's input in place, are
refused with the reason.

Choosing a path needs no Opacus, which takes seconds to load: a command that looks at a study or approves
it goes without. A vault loads it with `training`, before it takes orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from solblom_models.task import Task, Units
from solblom_protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from solblom_client.training.optimizer import KeyedDPOptimizer

Shares = torch.Tensor | None
"""Of each chosen patient in a family's contribution, shape (B,); None where each patient is a unit alone."""
PathName = Literal["book-keeping", "grad-samplers", "per-patient"]
SAMPLED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
MEETING = (nn.modules.batchnorm._BatchNorm,)


class PutSum(Protocol):
    """Puts the clipped sum over some patients into an optimiser."""

    def __call__(  # noqa: D102
        self,
        optimizer: KeyedDPOptimizer,
        units: Units,
        chosen: Sequence[int],
        shares: Shares = None,
    ) -> None: ...


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
        if type(module) not in SAMPLED:
            raise _refusal(
                name,
                module,
                "whose parameters cannot be followed patient by patient",
                "Put parameters into Linear, Conv, GroupNorm, LayerNorm or Embedding layers",
            )
    from opacus.validators import ModuleValidator

    problems = ModuleValidator.validate(model, strict=False)
    if problems:
        raise ConfigurationError("SB-107", f"Opacus refuses the net: {problems[0]}")
    return GradientPath("grad-samplers", "the net has other layers than linear ones")


@contextmanager
def prepared(path: GradientPath, task: Task, model: nn.Module) -> Iterator[PutSum]:
    """Give a function that puts the clipped sum over the chosen patients into an optimiser.

    Shares come after clipping: each patient's part is bounded before relatives' parts are averaged. The hooks that
    record a forward pass are gone when the block ends.
    """
    puts = {
        "book-keeping": _book_keeping,
        "grad-samplers": _grad_samplers,
        "per-patient": _per_patient,
    }
    put = puts[path.name]
    yield lambda optimizer, units, chosen, shares=None: put(
        task, model, optimizer, units, chosen, shares
    )


def _grad_samplers(
    task: Task,
    model: nn.Module,
    optimizer: KeyedDPOptimizer,
    units: Units,
    chosen: Sequence[int],
    shares: Shares,
) -> None:
    from opacus import GradSampleModule

    optimizer.set_empty_sum()
    if not len(chosen):
        return
    layers = [m for m in model.modules() if type(m) in SAMPLED and _trained(m)]
    calls, gradients, _ = _one_backward(task, model, layers, units.batch(chosen))
    _check_rows(calls, layers, len(chosen))
    for call, gradient in zip(calls, gradients, strict=True):
        sampler = GradSampleModule.GRAD_SAMPLERS[type(call.layer)]
        for parameter, sample in sampler(call.layer, [call.inputs], gradient).items():
            # A layer that is used twice: a patient's gradient is the sum over its uses.
            before = parameter.grad_sample
            parameter.grad_sample = sample if before is None else before + sample
    _drop_unbounded(optimizer)
    optimizer.clip_and_add(shares)


def _per_patient(
    task: Task,
    model: nn.Module,
    optimizer: KeyedDPOptimizer,
    units: Units,
    chosen: Sequence[int],
    shares: Shares,
) -> None:
    optimizer.set_empty_sum()
    for place, index in enumerate(chosen):
        loss = task.losses(model, units.batch([index])).sum()
        gradients = torch.autograd.grad(loss, optimizer.params, allow_unused=True)
        for parameter, gradient in zip(optimizer.params, gradients, strict=True):
            whole = torch.zeros_like(parameter) if gradient is None else gradient
            parameter.grad_sample = whole.unsqueeze(0)
        _drop_unbounded(optimizer)
        optimizer.clip_and_add(None if shares is None else shares[place : place + 1])


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
    task: Task,
    model: nn.Module,
    optimizer: KeyedDPOptimizer,
    units: Units,
    chosen: Sequence[int],
    shares: Shares,
) -> None:
    """Write the clipped sum into `summed_grad` without any per-patient gradient.

    For a layer with input a and output gradient g, a patient's weight gradient is g a^T, so its
    squared norm is |g|^2 |a|^2, and |g|^2 for the bias. Factors as Opacus': C / (norm + 1e-6).
    """
    optimizer.set_empty_sum()
    if not len(chosen):
        return
    layers = [m for m in model.modules() if type(m) is nn.Linear and _trained(m)]
    calls, gradients, losses = _one_backward(task, model, layers, units.batch(chosen))
    _check_vectors(calls, layers, len(chosen))
    squared = torch.zeros(len(chosen), device=losses.device)
    for call, gradient in zip(calls, gradients, strict=True):
        squared += gradient.square().sum(dim=1) * _squared_inputs(call)
    factor = (optimizer.max_grad_norm / (squared.sqrt() + 1e-6)).clamp(max=1.0)
    if shares is not None:
        factor = factor * shares.to(factor.device)
    bounded = torch.isfinite(squared)[:, None]
    for call, gradient in zip(calls, gradients, strict=True):
        clipped = torch.where(bounded, gradient * factor[:, None], 0.0)
        weight, bias = call.layer.weight, call.layer.bias
        if weight.requires_grad:
            optimizer.add_to_sum(weight, clipped.T @ torch.where(bounded, call.inputs, 0.0))
        if bias is not None and bias.requires_grad:
            optimizer.add_to_sum(bias, clipped.sum(dim=0))


@dataclass(frozen=True)
class _Call:
    """One use of a layer in the forward pass.

    `output` is the edge of the graph, not the tensor: an activation that works in place changes the
    tensor, and its gradient would be the one after the activation.
    """

    layer: Any
    inputs: torch.Tensor
    version: int
    output: GradientEdge


def _one_backward(
    task: Task, model: nn.Module, layers: Sequence[nn.Module], batch: Any
) -> tuple[list[_Call], tuple[torch.Tensor, ...], torch.Tensor]:
    """Return each use of a layer, the losses' gradient at its output, and the losses.

    Raises:
        ConfigurationError: SB-107, a layer's input was changed in place, or the loss does not
            depend on a layer's output.
    """
    calls: list[_Call] = []

    def record(layer: Any, inputs: Any, output: Any) -> None:
        edge = get_gradient_edge(output)
        calls.append(_Call(layer, inputs[0].detach(), inputs[0]._version, edge))

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        losses = task.losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(
        losses.sum(), [call.output for call in calls], allow_unused=True
    )
    if any(gradient is None for gradient in gradients):
        raise ConfigurationError("SB-107", "The loss does not depend on one of the net's layers")
    if any(call.inputs._version != call.version for call in calls):
        raise ConfigurationError(
            "SB-107",
            "The net changes a layer's input in place",
            "Use operations that return a new tensor",
        )
    return calls, gradients, losses


def _trained(layer: nn.Module) -> bool:
    return any(p.requires_grad for p in layer.parameters(recurse=False))


def _squared_inputs(call: _Call) -> torch.Tensor:
    """Return what |output gradient|^2 is multiplied with, shape (B,): a frozen weight counts nothing."""
    total = torch.zeros(len(call.inputs), device=call.inputs.device)
    if call.layer.weight.requires_grad:
        total = call.inputs.square().sum(dim=1)
    bias = call.layer.bias
    return total + (1.0 if bias is not None and bias.requires_grad else 0.0)


def _check_rows(calls: list[_Call], layers: Sequence[nn.Module], batch: int) -> None:
    """Refuse what Opacus' formulas would get wrong without a word.

    Raises:
        ConfigurationError: SB-107, a layer is not used, or sees another number of rows than
            patients.
    """
    if {id(call.layer) for call in calls} != {id(layer) for layer in layers}:
        raise ConfigurationError("SB-107", "A layer of the net is not used")
    if any(call.inputs.ndim < 2 or len(call.inputs) != batch for call in calls):
        raise ConfigurationError(
            "SB-107",
            "A layer sees another number of rows than there are patients",
            "Mark the task as ragged: its patients are then trained one at a time",
        )


def _check_vectors(calls: list[_Call], layers: Sequence[nn.Linear], batch: int) -> None:
    """Refuse what the norm formula does not cover.

    Raises:
        ConfigurationError: SB-107, a layer or a weight was used twice or not at all, or a layer
            sees more than one vector per patient.
    """
    if len({id(layer.weight) for layer in layers}) != len(layers):
        raise ConfigurationError("SB-107", "Two linear layers share a weight")
    if sorted(id(call.layer) for call in calls) != sorted(id(layer) for layer in layers):
        raise ConfigurationError("SB-107", "A linear layer is used twice, or not at all")
    if any(call.inputs.ndim != 2 or len(call.inputs) != batch for call in calls):
        raise ConfigurationError(
            "SB-107",
            "A linear layer sees more than one vector per patient",
            "Mark the task as ragged: its patients are then trained one at a time",
        )


def _refusal(name: str, module: nn.Module, what: str, hint: str) -> ConfigurationError:
    kind = type(module).__name__
    return ConfigurationError("SB-107", f"The net has {name} ({kind}), {what}", hint)
