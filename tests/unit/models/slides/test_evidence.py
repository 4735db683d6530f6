"""Evidence: each tile's part of the logit, exactly; and which tiles are shown."""

import numpy as np
import pytest
import torch

from solblom_models.slide_mil.net import GatedAttention, MeanPooling
from solblom_models.slides.evidence import bias_of, ranked, tile_evidence, tile_scores
from solblom_models.tabular.net import LogisticRegression, MultilayerPerceptron

DIM = 7


def bag(tiles: int = 40, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(tiles, DIM, generator=torch.Generator().manual_seed(seed))


def filled(net: torch.nn.Module) -> torch.nn.Module:
    """Return a net with other weights than its first, which are zero in places."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


NETS = {
    "mean": filled(MeanPooling(DIM)),
    "gated attention": filled(GatedAttention(DIM, 5, seed=1)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("tiles", [1, 2, 300])
def test_the_mean_of_the_evidence_and_the_bias_are_the_logit(name: str, tiles: int) -> None:
    net = NETS[name]
    found, attention = tile_evidence(net, bag(tiles))
    with torch.no_grad():
        logit = float(net(bag(tiles))[0])
    assert found.mean() + bias_of(net) == pytest.approx(logit, abs=1e-5)
    assert attention.sum() == pytest.approx(1.0, abs=1e-6)
    assert found.shape == attention.shape == (tiles,)


@pytest.mark.parametrize("name", NETS)
def test_a_tile_that_the_read_out_does_not_see_has_no_evidence(name: str) -> None:
    tiles = bag()
    tiles[3] = 0.0
    assert tile_evidence(NETS[name], tiles)[0][3] == 0.0


def test_evidence_of_mean_pooling_is_what_a_tile_would_get_alone() -> None:
    tiles = bag()
    net = NETS["mean"]
    with torch.no_grad():
        alone = [float(net(tiles[i : i + 1])[0]) - bias_of(net) for i in range(len(tiles))]
    assert tile_evidence(net, tiles)[0] == pytest.approx(alone, abs=1e-5)


def test_a_high_attention_may_speak_against() -> None:
    """So attention is no probability of a lesion, and evidence is shown in its stead."""
    net = GatedAttention(1, 1, seed=0)
    with torch.no_grad():
        for layer, weight in ((net.tanh, 3.0), (net.gate, 3.0), (net.weight, 5.0)):
            layer.weight.fill_(weight)
        net.linear.weight.fill_(-1.0)
    evidence, attention = tile_evidence(net, torch.tensor([[2.0], [-1.0], [0.1]]))
    assert attention.argmax() == evidence.argmin() == 0


def test_a_net_that_is_no_sum_over_tiles_is_refused() -> None:
    with pytest.raises(TypeError, match="exact for"):
        tile_evidence(LogisticRegression(DIM), bag())
    with pytest.raises(TypeError, match="exact for"):
        bias_of(LogisticRegression(DIM))


@pytest.mark.parametrize("bad", [torch.zeros(0, DIM), torch.zeros(DIM)])
def test_an_empty_bag_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="n above 0"):
        tile_evidence(NETS["mean"], bad)
    with pytest.raises(ValueError, match="n above 0"):
        tile_scores(LogisticRegression(DIM), bad)


def test_features_that_are_not_finite_are_refused() -> None:
    tiles = bag()
    tiles[2, 2] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        tile_evidence(NETS["mean"], tiles)


def test_scores_of_tiles_are_probabilities() -> None:
    net = filled(MultilayerPerceptron(DIM, (4,), seed=0))
    found = tile_scores(net, bag())
    with torch.no_grad():
        assert found == pytest.approx(torch.sigmoid(net(bag())).numpy(), abs=1e-6)
    assert ((found > 0) & (found < 1)).all()


def places(columns: int, rows: int, side: int = 10) -> np.ndarray:
    return np.array([(x * side, y * side) for y in range(rows) for x in range(columns)])


def test_highest_tiles_do_not_touch_where_that_is_possible() -> None:
    scores = -np.arange(100.0)  # a grid of ten by ten, whose highest are its first row
    top, bottom = ranked(scores, 4, places=places(10, 10), side=10)
    assert top.tolist() == [0, 2, 4, 6]
    assert bottom.tolist() == [99, 97, 95, 93]


def test_no_middling_tile_is_shown_because_the_highest_touch() -> None:
    """On a small slide most tiles touch: the eighth that does not would be the fifteenth or worse."""
    top, bottom = ranked(-np.arange(48.0), 6, places=places(4, 12), side=10)
    assert top.max() < 12
    assert bottom.min() > 35
    assert len(top) == len(bottom) == 6


def test_neighbours_are_shown_rather_than_nothing() -> None:
    top, _ = ranked(np.array([3.0, 4.0, 1.0, 2.0]), 2, places=places(4, 1), side=10)
    assert top.tolist() == [1, 0]


@pytest.mark.parametrize("tiles", [1, 2, 5])
def test_with_few_tiles_none_is_among_the_highest_and_the_lowest(tiles: int) -> None:
    top, bottom = ranked(np.arange(float(tiles)), 8, places=places(tiles, 1), side=10)
    assert sorted([*top.tolist(), *bottom.tolist()]) == list(range(tiles))
    assert top[0] == tiles - 1


def test_equal_scores_keep_the_order_of_the_tiles() -> None:
    top, _ = ranked(np.zeros(30), 2, places=places(30, 1), side=10)
    assert top.tolist() == [0, 2]
