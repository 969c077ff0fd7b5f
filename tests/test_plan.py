"""The contract of :class:`conet_fx.plan.ChannelPlan` (DESIGN 9): names, order, errors, costs, what it tells."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import conet_fx
from conet_fx.errors import ConetError, ConstraintError, ResizeError
from conet_fx.plan import ChannelPlan, Cost
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    """Two residual streams, a grouped convolution, a layer scale, an unknown operator and a hidden linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3)
        self.grouped = conv(8, 12, 3, groups=4)
        self.inner = conv(12, 6)
        self.back = conv(6, 12)
        self.scale = nn.Parameter(torch.full((12, 1, 1), 0.25))
        self.odd = conv(12, 7)
        self.norm = nn.GroupNorm(1, 12)
        self.hidden = nn.Linear(12, 9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.grouped(F.relu(self.stem(x))))
        x = self.norm(x + self.scale * self.back(F.relu(self.inner(x))))
        odd = torch.special.i1(self.odd(x)).sum()
        return self.head(F.relu(self.hidden(x.mean((2, 3))))), odd


@pytest.fixture(scope="module")
def model() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def plan(model: Net) -> ChannelPlan:
    return conet_fx.analyze(model, IMAGE)


# --- groups ----------------------------------------------------------------------------------------------------------


def test_groups_are_named_after_their_first_writer_in_the_order_of_the_graph(plan: ChannelPlan) -> None:
    assert [group.name for group in plan.groups] == ["stem", "grouped", "inner", "odd", "hidden", "head"]
    assert [group.name for group in plan.free] == ["stem", "grouped", "inner"]
    assert plan.sizes == {"stem": 8, "grouped": 12, "inner": 6, "odd": 7, "hidden": 9, "head": 5}


def test_a_group_knows_its_members(plan: ChannelPlan) -> None:
    group = plan.group("grouped")
    assert group.writers == ("grouped", "back")
    assert group.readers == ("inner", "odd", "hidden")
    assert group.whole_readers == group.readers
    assert (group.size, group.quantum, group.minimum) == (12, 4, 4)
    assert group.frozen is None
    assert len(group.mixed_by) == 1
    assert "norm" in group.mixed_by[0]


def test_a_reader_of_a_concatenation_reads_no_group_alone() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y, self.b(y)], 1))

    plan = conet_fx.analyze(net(forward, a=conv(3, 4), b=conv(4, 6), out=conv(10, 5)), IMAGE)
    assert plan.group("a").readers == ("b", "out")
    assert plan.group("a").whole_readers == ("b",)
    assert plan.group("b").whole_readers == ()


def test_one_module_that_writes_several_groups_numbers_them() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y + torch.cat([self.b(x), self.c(x)], 1))

    plan = conet_fx.analyze(net(forward, a=conv(3, 10), b=conv(3, 4), c=conv(3, 6), out=conv(10, 5)), IMAGE)
    assert [(g.name, g.size, g.writers) for g in plan.free] == [("a", 4, ("a", "b")), ("a#2", 6, ("a", "c"))]
    assert plan.resize({"a#2": 8}).get_submodule("a").out_channels == 12


def test_frozen_groups_say_why(plan: ChannelPlan) -> None:
    assert "special_i1" in str(plan.group("odd").frozen)
    assert re.search(r"test_plan.py:\d+", str(plan.group("odd").frozen))
    assert "only linear layers write it" in str(plan.group("hidden").frozen)
    assert plan.group("head").frozen == "channels of the network's output"


def test_the_order_does_not_depend_on_hashes() -> None:
    program = (
        "import torch, torchvision, conet_fx; m = torchvision.models.shufflenet_v2_x0_5(weights=None).eval();"
        "p = conet_fx.analyze(m, torch.randn(1, 3, 32, 32)); print(p.groups); print(p.to_dot())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_options() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1) + self.c(x)
        return self.out(self.hidden(y.mean((2, 3))))

    model = net(forward, a=conv(3, 4), b=conv(3, 6), c=conv(3, 10), hidden=nn.Linear(10, 7), out=nn.Linear(7, 5))
    names = {
        (tie, linear): [g.name for g in conet_fx.analyze(model, IMAGE, tie_concat=tie, resize_linear=linear).free]
        for tie in (False, True)
        for linear in (False, True)
    }
    assert names == {
        (False, False): ["a", "b"],
        (True, False): ["a"],
        (False, True): ["a", "b", "hidden"],
        (True, True): ["a", "hidden"],
    }


def test_strict_raises_at_an_unknown_operator(model: Net) -> None:
    with pytest.raises(ConstraintError, match=r"special_i1 at .*test_plan.py:\d+.*conet_fx.register_op"):
        conet_fx.analyze(model, IMAGE, strict=True)


def test_strict_is_content_with_what_it_knows() -> None:
    conet_fx.analyze(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2)), IMAGE, strict=True)


def test_strict_refuses_a_layer_that_nobody_knows() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return self.nobody(x, x)

    with pytest.raises(ConstraintError, match=r"nobody at .* is not in the table"):
        conet_fx.analyze(net(forward, nobody=nn.Bilinear(3, 3, 4)), IMAGE, strict=True)


# --- cost ------------------------------------------------------------------------------------------------------------


def test_cost_at_the_present_sizes(plan: ChannelPlan, model: Net) -> None:
    cost = plan.cost()
    assert cost == plan.cost({}) == plan.cost(plan.sizes)
    assert cost.params == sum(p.numel() for p in model.parameters())
    pixels = 2 * 64
    convolutions = 8 * 27 + 12 * 2 * 9 + 6 * 12 + 12 * 6 + 7 * 12
    assert cost.macs == pixels * convolutions + 2 * (12 * 9 + 9 * 5)


def test_cost_builds_nothing(plan: ChannelPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conet_fx.plan.rewrite", None)
    cost = plan.cost({"stem": 1_000_000, "inner": 10**9})
    assert cost.params > 10**10
    assert isinstance(cost, Cost)


# --- resize ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"stm": 8}, "no channel group 'stm'; did you mean 'stem'"),
        ({"zzzzz": 8}, "no channel group 'zzzzz'; plan.sizes lists the groups"),
        ({"odd": 8}, r"'odd' must keep its 7 channels \(.*special_i1.*\), not 8"),
        ({"head": 6}, "'head' must keep its 5 channels"),
        ({"hidden": 10}, "'hidden' must keep its 9 channels.*resize_linear=True"),
        ({"stem": 0}, r"'stem' needs at least 4 channels, not 0 \(written by stem at \S+test_plan.py:\d+\)"),
        ({"stem": -4}, "'stem' needs at least 4 channels, not -4"),
        (
            {"grouped": 14},
            r"must be a multiple of 4, not 14: take 12 or 16 \(written by grouped at \S+test_plan.py:\d+\)",
        ),
        (
            {"back": 16},
            "no channel group 'back'; back writes channels of 'grouped': a group goes by the name of its first",
        ),
        ({"stem": 8.0}, "must be an integer, not 8.0"),
        ({"stem": "8"}, "must be an integer, not '8'"),
        ({"inner": True}, "must be an integer, not True"),
        ({"inner": None}, "must be an integer, not None"),
    ],
)
def test_sizes_that_are_not_allowed(plan: ChannelPlan, sizes: dict[str, Any], text: str) -> None:
    for use in (plan.resize, plan.cost):
        with pytest.raises(ResizeError, match=text) as caught:
            use(sizes)
        assert isinstance(caught.value, ConetError)


def test_sizes_of_numpy_are_integers(plan: ChannelPlan) -> None:
    assert plan.resize({"stem": np.int64(16)}).get_submodule("stem").out_channels == 16  # type: ignore[dict-item]


def test_a_group_knows_its_line(plan: ChannelPlan) -> None:
    assert all(re.search(r"test_plan.py:\d+$", group.source) for group in plan.groups)


def test_a_frozen_group_may_be_named_at_its_size(plan: ChannelPlan) -> None:
    assert plan.resize({"odd": 7, "head": 5, "stem": 12}).get_submodule("stem").out_channels == 12


def test_an_unknown_init(plan: ChannelPlan) -> None:
    with pytest.raises(ValueError, match="init must be 'reset' or 'inherit', not 'zeros'"):
        plan.resize({}, init="zeros")  # type: ignore[arg-type]


def test_resize_sets_all_attributes(plan: ChannelPlan, model: Net) -> None:
    state = copy.deepcopy(model.state_dict())
    resized = plan.resize({"stem": 16, "grouped": 20, "inner": 3})
    grouped = resized.get_submodule("grouped")
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (16, 20, 4)
    assert grouped.weight.shape == (20, 4, 3, 3)
    assert resized.get_submodule("inner").weight.shape == (3, 20, 1, 1)
    assert resized.get_submodule("norm").num_channels == 20
    assert resized.get_parameter("scale").shape == (20, 1, 1)
    assert resized.get_submodule("hidden").in_features == 20
    assert "20" in repr(grouped)
    assert type(resized).__name__ == "Net"
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_plan_can_be_used_again_and_again(plan: ChannelPlan) -> None:
    before = plan.groups, plan.sizes, plan.cost()
    plan.resize({"stem": 4})
    plan.resize({"stem": 40}, init="inherit")
    assert (plan.groups, plan.sizes, plan.cost()) == before


def test_a_resized_module_can_be_analyzed_again(plan: ChannelPlan) -> None:
    again = conet_fx.analyze(plan.resize({"stem": 16, "inner": 5}), IMAGE)
    assert again.sizes == {**plan.sizes, "stem": 16, "inner": 5}
    assert again.cost() == plan.cost({"stem": 16, "inner": 5})


# --- initial weights -------------------------------------------------------------------------------------------------


def test_reset_draws_from_the_global_generator(plan: ChannelPlan) -> None:
    torch.manual_seed(1)
    first = plan.resize({"stem": 16}).state_dict()
    second = plan.resize({"stem": 16}).state_dict()
    torch.manual_seed(1)
    third = plan.resize({"stem": 16}).state_dict()
    assert not torch.equal(first["stem.weight"], second["stem.weight"])
    assert all(torch.equal(first[name], third[name]) for name in first)


def test_reset_gives_fresh_weights_of_the_usual_scale(plan: ChannelPlan, model: Net) -> None:
    fresh = plan.resize({})
    weight = fresh.get_parameter("stem.weight").detach()
    assert not torch.equal(weight, model.stem.weight)
    bound = 1 / (3 * 9) ** 0.5  # of reset_parameters of a convolution
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.2)


def test_constants_stay_constant(plan: ChannelPlan) -> None:
    scale = plan.resize({"grouped": 16}).get_parameter("scale")
    assert torch.equal(scale, torch.full((16, 1, 1), 0.25))


def test_drawn_parameters_are_drawn_alike() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.a(x) + self.position)

    model = net(forward, a=conv(3, 400), position=nn.Parameter(3 + torch.randn(400, 1, 1)), out=conv(400, 5))
    position = conet_fx.analyze(model, IMAGE).resize({"a": 800}).get_parameter("position").detach()
    assert position.shape == (800, 1, 1)
    assert float(position.mean()) == pytest.approx(3, abs=0.3)
    assert float(position.std()) == pytest.approx(1, abs=0.2)


def test_norm_statistics_start_anew() -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), conv(4, 2))
    model(IMAGE)
    norm = conet_fx.analyze(model, IMAGE).resize({"0": 6}).get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert torch.equal(norm.running_mean, torch.zeros(6))
    assert torch.equal(norm.running_var, torch.ones(6))
    assert int(norm.num_batches_tracked) == 0


def test_init_fn_comes_last_and_sees_every_module(plan: ChannelPlan) -> None:
    seen: list[str] = []

    def init(module: nn.Module) -> None:
        seen.append(type(module).__name__)
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.5)

    resized = plan.resize({"stem": 16}, init_fn=init)
    assert bool((resized.get_parameter("stem.weight") == 0.5).all())
    assert seen.count("Conv2d") == 5
    assert seen[-1] == "Net"


def test_inherit_keeps_the_strongest_channels() -> None:
    model = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 2))
    with torch.no_grad():
        for channel, strength in enumerate([1.0, 5, 2, 6, 3, 4]):
            model[0].weight[channel] = strength
    resized = conet_fx.analyze(model, IMAGE).resize({"0": 3}, init="inherit")
    assert resized.meta["conet_fx"]["kept"]["0", "out"].tolist() == [1, 3, 5]
    assert resized.meta["conet_fx"]["kept"]["2", "in"].tolist() == [1, 3, 5]
    assert torch.equal(resized.get_parameter("0.weight"), model[0].weight[[1, 3, 5]])
    assert torch.equal(resized.get_parameter("2.weight"), model[2].weight[:, [1, 3, 5]])


def test_inherit_keeps_requires_grad_dtype_and_modes() -> None:
    model = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), conv(6, 2)).double()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    for init in ("reset", "inherit"):
        resized = conet_fx.analyze(model, IMAGE.double()).resize({"0": 8}, init=init)  # type: ignore[arg-type]
        assert resized.get_parameter("0.weight").dtype == torch.float64
        assert not resized.get_parameter("0.weight").requires_grad
        assert resized.get_parameter("2.weight").requires_grad
        assert resized.training
        assert not resized.get_submodule("1").training


# --- telling ---------------------------------------------------------------------------------------------------------


def test_explain(plan: ChannelPlan) -> None:
    first, empty, *table = plan.explain().splitlines()
    assert first == (
        f"Net: 3 free and 3 frozen channel groups, {plan.cost().params:,} parameters, {plan.cost().macs:,} MACs"
    )
    assert empty == ""
    here = r"\S+test_plan.py:\d+"
    patterns = [
        r"group    size  quantum  written by     read by             frozen because",
        r"stem        8        4  stem           grouped",
        r"grouped    12        4  grouped, back  inner, odd, hidden",
        r"inner       6        1  inner          back",
        rf"odd         7        1  odd            -                   special_i1 at {here} is not in the table",
        rf"hidden      9        1  hidden         head                only linear .* \(hidden at {here}\)",
        rf"head        5        1  head           -                   channels of the .* output \(head at {here}\)",
        r"",
        r"Operators that mix channels, so that inherited weights keep the function only nearly:",
        rf"  grouped: mixed by norm at {here}",
        r"Operators that were not followed \(conet_fx.register_op and register_module teach them\):",
        rf"  not followed: special_i1 at {here} is not in the table",
    ]
    for line, pattern in zip(table, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_explain_shortens_long_lists() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.first_of_many(x)
        for layer in self.layers:
            y = y + layer(y)
        return self.out(y)

    layers = nn.ModuleList(conv(6, 6) for _ in range(20))
    model = net(forward, first_of_many=conv(3, 6), layers=layers, out=conv(6, 5))
    row = conet_fx.analyze(model, IMAGE).explain().splitlines()[3]
    assert re.split("  +", row) == [
        *("first_of_many", "6", "1"),
        *("first_of_many, layers.0, layers.1 +18", "layers.0, layers.1, layers.2 +18"),
    ]


def test_explain_without_groups() -> None:
    plan = conet_fx.analyze(nn.Sequential(nn.ReLU()), IMAGE)
    assert plan.explain() == "Sequential: 0 free and 0 frozen channel groups, 0 parameters, 0 MACs"


def test_explain_says_which_mode_it_is_about() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.a(x)
        if self.training and y.mean() > 0:
            return self.out(y.relu())
        return (self.out(y), y) if self.training else self.out(y)

    model = net(forward, a=conv(3, 4), out=conv(4, 5))
    assert "plan is of its eval mode" in conet_fx.analyze(model.eval(), IMAGE).explain()
    assert conet_fx.analyze(model.eval(), IMAGE).group("a").frozen is None


def test_repr(plan: ChannelPlan) -> None:
    assert repr(plan) == "ChannelPlan(Net: 6 groups, 3 free)"


NODE = r'  "([^"]+)" \[label="([^"]+)" shape=(\w+) fillcolor="(#\w{6})"\];'
EDGE = r'  "([^"]+)" -> "([^"]+)" \[style=(bold|dashed) color="(#\w{6}(?::#\w{6})*)"\];'
FROZEN = "#dddddd"


def test_to_dot(plan: ChannelPlan) -> None:
    lines = plan.to_dot().splitlines()
    assert lines[:2] == ["digraph channels {", "  rankdir=TB;"]
    assert lines[-1] == "}"
    nodes = {found[1]: found.groups() for found in (re.fullmatch(NODE, line) for line in lines) if found}
    edges = {found.groups()[:2]: found.groups() for found in (re.fullmatch(EDGE, line) for line in lines) if found}
    assert nodes.keys() == set(plan.graph.nodes)
    assert edges.keys() == set(plan.graph.edges())
    assert len(lines) == len(nodes) + len(edges) + 6
    assert edges["x", "stem"][2] == "bold"
    assert edges["stem", "relu"][2] == "dashed"
    assert nodes["add"][2] == "circle"
    assert nodes["grouped"][1] == "grouped\\n12"
    colours = {name: nodes[name][3] for name in ("stem", "grouped", "inner")}
    assert len({*colours.values(), FROZEN, "#ffffff"}) == 5
    assert nodes["back"][3] == nodes["scale"][3] == nodes["norm"][3] == colours["grouped"]
    assert nodes["odd"][3] == nodes["hidden"][3] == nodes["head"][3] == FROZEN
    assert nodes["x"][3] == nodes["special_i1"][3] == "#ffffff"
    assert edges["relu", "grouped"][3] == edges["stem", "relu"][3] != edges["grouped", "relu_1"][3]
    legend = lines[4]
    assert f'<td bgcolor="{colours["grouped"]}" align="left">grouped: 12</td>' in legend
    assert f'<td bgcolor="{FROZEN}" align="left">odd: 7 (frozen)</td>' in legend


def test_graphviz_draws_it(plan: ChannelPlan, tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        if os.environ.get("CONET_FX_REQUIRE_GRAPHVIZ") == "1":
            pytest.fail("CONET_FX_REQUIRE_GRAPHVIZ=1, and no dot on PATH")
        pytest.skip("Graphviz (the program dot) is not installed")
    plan.draw(tmp_path / "graph.svg")
    drawing = ElementTree.parse(tmp_path / "graph.svg").getroot()
    titles = {title.text for title in drawing.iter("{http://www.w3.org/2000/svg}title")}
    assert set(plan.graph.nodes) | {"channel groups"} <= titles


def test_to_dot_of_several_groups_in_one_value() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        a, b = torch.cat([self.a(x), self.b(x)], 1).split([4, 6], 1)
        return self.out(torch.cat([a, b], 1))

    plan = conet_fx.analyze(net(forward, a=conv(3, 4), b=conv(3, 6), out=conv(10, 5)), IMAGE)
    text = plan.to_dot()
    lines = {found.groups()[:2]: found[4] for found in map(re.compile(EDGE).fullmatch, text.splitlines()) if found}
    both = f"{lines['a', 'cat']}:{lines['b', 'cat']}"
    assert lines["cat", "split"] == lines["split", "getitem"] == lines["cat_1", "out"] == both
    assert lines["getitem", "cat_1"] == lines["a", "cat"]
    assert '"cat" [label="cat\\n4 + 6" shape=trapezium fillcolor="#ffffff"]' in text


def test_draw(plan: ChannelPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan.draw(tmp_path / "graph.dot")
    assert (tmp_path / "graph.dot").read_text() == plan.to_dot()
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho $1\nexec /bin/cat\n")  # stands in for Graphviz
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for suffix in ("svg", "png", "pdf", "SVG"):
        plan.draw(str(tmp_path / f"graph.{suffix}"))
        assert (tmp_path / f"graph.{suffix}").read_text() == f"-T{suffix.lower()}\n{plan.to_dot()}"
    program.write_text("#!/bin/sh\necho no such font >&2\nexit 3\n")
    with pytest.raises(ConetError, match=r"cannot draw other.svg: no such font"):
        plan.draw(tmp_path / "other.svg")
    program.unlink()
    with pytest.raises(ConetError, match=r"Graphviz, which draws other.svg, is not installed.*other.dot, which needs"):
        plan.draw(tmp_path / "other.svg")
    with pytest.raises(ValueError, match=r"other.jpg: the suffix names the format, write one of .dot, .svg"):
        plan.draw(tmp_path / "other.jpg")
    assert not list(tmp_path.glob("other*"))


def test_graph_attributes(plan: ChannelPlan) -> None:
    assert {data["kind"] for _, data in plan.graph.nodes(data=True)} <= {
        "input",
        "single",
        "summation",
        "concatenation",
        "output",
    }
    assert {data["kind"] for _, _, data in plan.graph.edges(data=True)} == {"conv", "non_conv"}
