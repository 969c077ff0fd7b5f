"""The probe on weights and models: unfoldings, ratios, which modules count, and what never happens to a model."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conet_fx.errors import SearchError
from conet_fx.probe import LayerMetrics, NonFiniteError, evbmf, layer_metrics, probe, probed_layers

QUICK = settings(max_examples=40, deadline=None)


def low_rank_weight(*shape: int, rank: int = 3, noise: float = 0.05, seed: int = 0) -> Tensor:
    """[Cout, Cin, *kernel], float32: `rank` outer products of outputs and inputs with a full kernel, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, rank, generator=generator) for n in shape[:2])
    kernel = torch.randn(rank, *shape[2:], generator=generator)
    return torch.einsum("or,ir,r...->oi...", left, right, kernel) + noise * torch.randn(*shape, generator=generator)


def by_hand(matrix: Tensor, channels: int) -> tuple[float, float, float]:
    """Rank, condition and gain of one unfolding, from the definitions."""
    values = evbmf(matrix).values[0]
    values = values[values > 0].numpy()
    if len(values) == 0:
        return 0.0, 0.0, 0.0
    return len(values) / channels, values[0] / values[-1], (values / values[0]).sum() / channels


def close(a: LayerMetrics, b: LayerMetrics, rtol: float = 1e-6) -> bool:
    return np.allclose(dataclasses.astuple(a), dataclasses.astuple(b), rtol=rtol, atol=0)


class TestLayerMetrics:
    @pytest.mark.parametrize(
        "shape", [(16, 8, 3, 3), (8, 16, 3, 3), (64, 4, 3), (4, 64, 3), (12, 10, 2, 3, 2), (40, 24)]
    )
    def test_unfoldings(self, shape: tuple[int, ...]) -> None:
        weight = low_rank_weight(*shape)
        found = layer_metrics(weight)
        mode_4 = weight.flatten(1)
        mode_3 = weight.transpose(0, 1).flatten(1)
        expected_out, expected_in = by_hand(mode_4, shape[0]), by_hand(mode_3, shape[1])
        assert (found.rank_out, found.condition_out, found.gain_out) == pytest.approx(expected_out)
        assert (found.rank_in, found.condition_in, found.gain_in) == pytest.approx(expected_in)
        assert found.rank_out == 3 / shape[0]
        assert found.rank_in == 3 / shape[1]

    def test_channels_stay_the_unit_where_an_unfolding_is_tall(self) -> None:
        found = layer_metrics(low_rank_weight(64, 16, 1, 1, rank=2))
        assert (found.rank_out, found.rank_in) == (2 / 64, 2 / 16)
        assert (found.cap_out, found.cap_in) == (12 / 64, 12 / 16)
        assert found.condition_in == found.condition_out

    def test_caps(self) -> None:
        found = layer_metrics(torch.zeros(64, 64, 3, 3))
        assert found == LayerMetrics(0, 0, 0, 0, 0, 0, cap_in=57 / 64, cap_out=57 / 64)

    def test_noise_shows_nothing(self) -> None:
        found = layer_metrics(low_rank_weight(32, 32, 3, 3, noise=1) * 0 + torch.randn(32, 32, 3, 3))
        assert (found.rank_in, found.condition_in, found.gain_in) == (0, 0, 0)
        assert (found.rank_out, found.condition_out, found.gain_out) == (0, 0, 0)

    def test_transposed(self) -> None:
        weight = low_rank_weight(12, 20, 3, 3)
        assert close(layer_metrics(weight.transpose(0, 1), transposed=True), layer_metrics(weight))

    @pytest.mark.parametrize("exponent", [-20, -10, -3, 3, 10, 20])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_scale(self, exponent: int, dtype: torch.dtype) -> None:
        weight = low_rank_weight(24, 20, 3, 3).to(dtype)
        assert close(layer_metrics(weight * 10.0**exponent), layer_metrics(weight), rtol=1e-5)

    @pytest.mark.parametrize("exponent", [-200, -20, 20, 200])
    def test_scale_far_out_in_float64(self, exponent: int) -> None:
        weight = low_rank_weight(24, 20, 3, 3).double()
        assert close(layer_metrics(weight * 10.0**exponent), layer_metrics(weight))

    @QUICK
    @given(seed=st.integers(0, 10**6), cout=st.integers(4, 24), cin=st.integers(4, 24), kernel=st.sampled_from([1, 3]))
    def test_channel_permutation(self, seed: int, cout: int, cin: int, kernel: int) -> None:
        weight = low_rank_weight(cout, cin, kernel, kernel, rank=2, noise=0.3, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        shuffled = weight[torch.randperm(cout, generator=generator)][:, torch.randperm(cin, generator=generator)]
        assert close(layer_metrics(shuffled), layer_metrics(weight))

    @QUICK
    @given(seed=st.integers(0, 10**6), cout=st.integers(1, 24), cin=st.integers(1, 24), kernel=st.integers(1, 3))
    def test_ranges(self, seed: int, cout: int, cin: int, kernel: int) -> None:
        found = layer_metrics(low_rank_weight(cout, cin, kernel, kernel, rank=4, noise=0.2, seed=seed))
        for mode in ("in", "out"):
            rank, gain, cap, condition = (getattr(found, f"{w}_{mode}") for w in ("rank", "gain", "cap", "condition"))
            assert 0 <= gain <= rank <= cap < 1
            assert condition >= 1 if rank else condition == 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        found = layer_metrics(low_rank_weight(16, 16, 3, 3).to(dtype))
        assert found.rank_out == 3 / 16

    def test_channels_last_memory_gives_the_same(self) -> None:
        weight = low_rank_weight(16, 12, 3, 3)
        assert close(layer_metrics(weight.contiguous(memory_format=torch.channels_last)), layer_metrics(weight))

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_not_finite(self, bad: float, dtype: torch.dtype) -> None:
        weight = low_rank_weight(4, 4, 3, 3).to(dtype)
        weight[0, 0, 0, 0] = bad
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            layer_metrics(weight)

    @pytest.mark.parametrize("shape", [(), (3,), (0, 4, 3, 3)])
    def test_shapes_that_are_no_weights(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="Cout"):
            layer_metrics(torch.zeros(shape))

    @pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 64, 1, 1), (1, 64), (64, 1, 1, 1)])
    def test_one_row_or_column_shows_nothing(self, shape: tuple[int, ...]) -> None:
        assert layer_metrics(torch.ones(shape)) == LayerMetrics(0, 0, 0, 0, 0, 0, cap_in=0, cap_out=0)

    def test_one_output_channel_has_an_input_rank(self) -> None:
        found = layer_metrics(low_rank_weight(1, 64, 3, 3, rank=1))
        assert (found.rank_out, found.cap_out) == (0, 0)
        assert (found.rank_in, found.cap_in) == (1 / 64, 7 / 64)

    @pytest.mark.parametrize("rank", [1, 2, 5])
    @pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
    def test_exactly_low_rank_weights(self, rank: int, kernel: tuple[int, ...]) -> None:
        found = layer_metrics(low_rank_weight(24, 16, *kernel, rank=rank, noise=0))
        assert (found.rank_out, found.rank_in) == (rank / 24, rank / 16)

    def test_a_weight_with_a_gradient_is_measured_without_one(self) -> None:
        weight = low_rank_weight(8, 8, 3, 3).requires_grad_()
        assert layer_metrics(weight) == layer_metrics(weight.detach())
        assert weight.grad_fn is None


class Zoo(nn.Module):
    """One of each kind of module, not to be run."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 8)
        self.stem = nn.Conv2d(3, 16, 3)
        self.one = nn.Conv1d(8, 12, 3)
        self.three = nn.Conv3d(4, 6, 2)
        self.grouped = nn.Conv2d(16, 24, 3, groups=4)
        self.depthwise = nn.Conv2d(16, 32, 3, groups=16)
        self.single = nn.Conv2d(1, 8, 3)
        self.up = nn.ConvTranspose2d(16, 10, 2)
        self.up_grouped = nn.ConvTranspose1d(16, 8, 3, groups=2)
        self.up_depthwise = nn.ConvTranspose2d(16, 16, 2, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.again = self.stem
        self.lone = nn.Conv2d(16, 24, 1)


@pytest.fixture
def zoo() -> Zoo:
    torch.manual_seed(0)
    model = Zoo()
    with torch.no_grad():
        for index, (path, layer) in enumerate(probed_layers(model, linear=True).items()):
            layer.weight.copy_(low_rank_weight(*layer.weight.shape, rank=1 + index % 2, seed=len(path)))
    return model


class TestProbe:
    def test_which_modules_count(self, zoo: Zoo) -> None:
        convs = ["stem", "one", "three", "grouped", "single", "up", "up_grouped", "lone"]
        assert list(probe(zoo)) == convs
        assert list(probe(zoo, linear=True)) == ["linear", *convs]
        assert list(probed_layers(zoo)) == convs

    def test_each_equals_its_own_weight_alone(self, zoo: Zoo) -> None:
        for path, found in probe(zoo, linear=True).items():
            layer = zoo.get_submodule(path)
            assert close(found, layer_metrics(layer.weight, transposed=path.startswith("up")), rtol=1e-9)
        assert probe(zoo)["up"].rank_out * 10 == pytest.approx(round(probe(zoo)["up"].rank_in * 16))

    def test_a_lone_conv_and_a_model_without_convs(self) -> None:
        assert list(probe(nn.Conv2d(3, 8, 3))) == [""]
        assert probe(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) == {}

    def test_the_model_is_left_alone(self, zoo: Zoo) -> None:
        zoo.train()
        zoo.norm.eval()
        before = copy.deepcopy(zoo.state_dict())
        modes = [module.training for module in zoo.modules()]
        random = torch.get_rng_state()
        probe(zoo, linear=True)
        after = zoo.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert [module.training for module in zoo.modules()] == modes
        assert all(p.requires_grad and p.grad is None for p in zoo.parameters())
        assert torch.equal(torch.get_rng_state(), random)

    def test_it_is_deterministic(self, zoo: Zoo) -> None:
        assert probe(zoo) == probe(zoo)

    @pytest.mark.parametrize("double", [False, True])
    def test_bad_layers_are_named_and_the_others_measured(self, zoo: Zoo, double: bool) -> None:
        zoo = zoo.double() if double else zoo
        expected = probe(zoo)
        with torch.no_grad():
            zoo.stem.weight[0, 0, 0, 0] = math.nan
            zoo.lone.weight[1] = math.inf
        with pytest.raises(NonFiniteError, match="'stem', 'lone'") as caught:
            probe(zoo)
        assert isinstance(caught.value, SearchError)
        assert caught.value.layers == ("stem", "lone")
        assert caught.value.metrics == {p: m for p, m in expected.items() if p not in ("stem", "lone")}

    def test_many_bad_layers_are_counted(self) -> None:
        model = nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(11)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(math.nan)
        with pytest.raises(NonFiniteError, match="and 3 more"):
            probe(model)

    @pytest.mark.parametrize(
        ("layer", "words"),
        [
            (nn.Conv2d(2, 2, 1, dtype=torch.complex64), "complex"),
            (nn.LazyConv2d(2, 1), "run the model once"),
            (nn.Conv2d(2, 2, 1, device="meta"), "meta device"),
        ],
    )
    def test_weights_that_are_no_matrices_of_numbers(self, layer: nn.Module, words: str) -> None:
        with pytest.raises(ValueError, match=f"the weight of 'block.0' .*{words}"):
            probe(nn.ModuleDict({"block": nn.Sequential(layer)}))

    def test_sparse_weights(self) -> None:
        conv = nn.Conv2d(2, 2, 1)
        conv.weight = nn.Parameter(conv.weight.detach().to_sparse())
        with pytest.raises(ValueError, match="the weight of '' is sparse"):
            probe(conv)

    def test_parametrized_weights_are_those_that_the_layer_computes(self) -> None:
        conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 16, 3))
        with torch.no_grad():
            conv.weight = low_rank_weight(16, 12, 3, 3)
        assert probe(nn.Sequential(conv))["0"] == layer_metrics(conv.weight)

    def test_approximate_tau(self, zoo: Zoo) -> None:
        assert probe(zoo, tau="approximate").keys() == probe(zoo).keys()

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self, zoo: Zoo) -> None:
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        on_cpu, on_gpu = probe(zoo, linear=True), probe(zoo.cuda(), linear=True)
        assert list(on_cpu) == list(on_gpu)
        assert all(close(on_cpu[path], on_gpu[path], rtol=1e-9) for path in on_cpu)
