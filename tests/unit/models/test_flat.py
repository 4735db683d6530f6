"""Between a net and its flat array: nothing is lost, nothing but parameters travels."""

import numpy as np
import pytest
import torch

from solblom_models.flat import flatten, layout_of, load_flat
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.layout import TensorSpec, unpack


def net(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def weights(model: torch.nn.Module) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in model.parameters()]


def test_a_net_comes_back_from_its_flat_array_bit_for_bit() -> None:
    first, second = net(1), net(2)
    layout = layout_of(first, local=frozenset())
    load_flat(second, layout, unpack(flatten(first, layout), layout))
    assert weights(second) == weights(first)


def test_a_layout_has_the_nets_parameters_in_the_nets_order() -> None:
    layout = layout_of(net(1), local=frozenset())
    assert layout.tensors == (
        TensorSpec("0.weight", (4, 3)),
        TensorSpec("0.bias", (4,)),
        TensorSpec("2.weight", (1, 4)),
        TensorSpec("2.bias", (1,)),
    )


def test_local_parameters_are_not_in_the_layout() -> None:
    layout = layout_of(net(1), local=frozenset({"2.bias"}))
    assert [t.name for t in layout.tensors] == ["0.weight", "0.bias", "2.weight"]
    assert layout.size == 12 + 4 + 4


def test_loading_leaves_local_parameters_as_they_are() -> None:
    model = net(1)
    local = frozenset({"2.bias"})
    layout = layout_of(model, local=local)
    before = dict(model.named_parameters())["2.bias"].item()
    load_flat(model, layout, np.zeros(layout.size, dtype=np.float32))
    after = {name: p.detach() for name, p in model.named_parameters()}
    assert after.pop("2.bias").item() == before
    assert all((p == 0).all() for p in after.values())


@pytest.mark.parametrize(
    "layer", [torch.nn.BatchNorm1d(4), torch.nn.InstanceNorm1d(4, track_running_stats=True)]
)
def test_a_net_with_running_statistics_is_refused(layer: torch.nn.Module) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), layer)
    with pytest.raises(IntegrityError, match="buffers") as caught:
        layout_of(model, local=frozenset())
    assert caught.value.code == "SB-405"
