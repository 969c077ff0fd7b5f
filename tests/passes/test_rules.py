"""Every operator family on a small network: the groups that it must give, and all invariants."""

from __future__ import annotations

import copy

import pytest
import torch

import conet_fx
from tests.passes.battery import check_everything
from tests.passes.cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    plan = conet_fx.analyze(model, case.inputs(), **case.options)
    assert {g.name: (g.size, g.quantum) for g in plan.free} == dict(case.free), plan.explain()
    reasons = {g.name: g.frozen for g in plan.groups if g.frozen is not None}
    assert reasons.keys() == case.frozen.keys(), plan.explain()
    for name, part in case.frozen.items():
        assert part in str(reasons[name]), plan.explain()
    assert {g.name for g in plan.free if g.mixed_by} == case.mixed, plan.explain()
    check_everything(copy.deepcopy(model), case.inputs(), loses=bool(case.loses), **case.options)
