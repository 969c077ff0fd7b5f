"""A network as a program: ``torch.export`` and ONNX, checked by running what was written."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from conet_fx.errors import ExportError
from conet_fx.passes.inputs import Arguments, Inputs
from conet_fx.passes.rewrite import copied as copied_graph
from conet_fx.passes.shapes import undisturbed

TOLERANCE = 1e-5  # of outputs, relative to the largest number in one
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
Call = tuple[tuple[Any, ...], dict[str, Any]]


def example_call(module: nn.Module, example: Inputs) -> Call:
    """Positional and keyword arguments. Raises ``TypeError`` or ``ValueError`` where they do not fit ``module``."""
    bound = Arguments.of_example(module, example)
    return tuple(bound.values[name] for name in bound.positional), {name: bound.values[name] for name in bound.keywords}


def copied(call: Call, device: str | None = None) -> Call:
    """The same call on copies of its tensors, which a network may write into."""

    def copy(value: Any) -> Any:
        return value.to(device, copy=True) if isinstance(value, Tensor) else value

    copies: Call = pytree.tree_map(copy, call)
    return copies


def write_torch_export(module: nn.Module, call: Call, path: Path, dynamic_batch: bool) -> None:
    """Write a .pt2 file; load it again and compare. Raises :class:`ExportError`."""
    with _evaluated(module):
        program = _program(module, call, dynamic_batch)
        try:
            with _quiet(), path.open("wb") as file:
                torch.export.save(program, file)
        except Exception as error:
            raise ExportError(
                f"torch.export cannot save {_name(module)} ({_brief(error)}). Where a named tuple is the reason: in "
                "what conet_fx.save writes it is a tuple, and that directory can be exported"
            ) from error
        with _quiet(), path.open("rb") as file:
            loaded = torch.export.load(file).module()
        for given in _calls(call, dynamic_batch):
            args, kwargs = copied(given)
            _compare(module, given, _tensors(loaded(*args, **kwargs)), "the .pt2 file")


def write_onnx(module: nn.Module, call: Call, path: Path, dynamic_batch: bool) -> None:
    """Write an ONNX file; run it with onnxruntime and compare. Raises :class:`ExportError`."""
    for package in _NEEDED:
        try:
            importlib.import_module(package)
        except ImportError:
            raise ExportError(f"ONNX needs {package}, which is not installed: pip install 'conet-fx[onnx]'") from None
    with _evaluated(module):
        program = _program(module, call, dynamic_batch)
        try:
            with _quiet():
                made: Any = torch.onnx.export(program, dynamo=True, verbose=False)
                made.save(path)
        except Exception as error:
            raise ExportError(
                f"torch.onnx has no ONNX form of {_name(module)} ({_brief(error)}): torch-export and python have one"
            ) from error
        run = _session(path)
        for given in _calls(call, dynamic_batch):
            _compare(module, given, run(_tensors(given)), "the ONNX file, run by onnxruntime,")


def _session(path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A function that runs an ONNX file on tensors, in the order of its inputs."""
    runtime: Any = importlib.import_module("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime does not load what torch.onnx wrote ({_brief(error)})") from error
    names = [given.name for given in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        try:
            inputs = {name: tensor.cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
            return [torch.from_numpy(output) for output in session.run(None, inputs)]
        except Exception as error:
            raise ExportError(f"onnxruntime does not run what torch.onnx wrote ({_brief(error)})") from error

    return run


def _program(module: nn.Module, call: Call, dynamic_batch: bool) -> Any:
    """The module as torch.export records it."""
    _check_runs(module, call)
    module = _without_what_is_left_out(module, call)
    module = _without_what_is_left_out(module, call)
    args, kwargs = _twice(call) if dynamic_batch and _batch(call) == 1 else call  # 1 would be taken for a constant
    shapes = _dynamic_shapes(module, (args, kwargs)) if dynamic_batch else None
    try:
        with _quiet():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        way_out = "the python format does not record a run"
        if dynamic_batch:
            way_out = (
                f"where that is the reason, dynamic_batch=False (--fixed_batch) exports it for {_batch(call)} samples "
                f"at a time; {way_out}"
            )
        what = " with a batch of any size" if dynamic_batch else ""
        raise ExportError(f"torch.export cannot export {_name(module)}{what} ({_brief(error)}): {way_out}") from error


def _without_what_is_left_out(module: nn.Module, call: Call) -> nn.Module:
    """The graph without the arguments that the call leaves to their defaults, and without what checks them: to those
    torch.export would give what the call gives by name.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    args, kwargs = call
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    inputs = module.graph.find_nodes(op="placeholder")
    left_out = {node.name for node in inputs if node.target not in given and _is_only_checked(node)}
    if not left_out:
        return module
    graph = copied_graph(module.graph)
    for node in graph.find_nodes(op="placeholder"):
        if node.name in left_out:
            checks = [check for compared in node.users for check in compared.users]
            for use in (*checks, *node.users, node):
                graph.erase_node(use)
    return fx.GraphModule(module, graph, type(module).__name__)


def _is_only_checked(node: fx.Node) -> bool:
    """Whether nothing but assertions reads an argument of a graph."""
    return all(
        use.target in (operator.eq, operator.ne) and all(check.target is torch._assert for check in use.users)
        for use in node.users
    )


def _check_runs(module: nn.Module, call: Call) -> None:
    args, kwargs = copied(call)
    try:
        module(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in _tensors(call))
        raise ExportError(
            f"{_name(module)} does not run on inputs of shape {shapes} ({_brief(error)}): give the shape that it was "
            "made for, batch included"
        ) from error


def _dynamic_shapes(module: nn.Module, call: Call) -> Any:
    """``batch`` for dim 0 of the tensors that have it, in the form of the arguments."""
    args, kwargs = call
    size, dim = _batch(call), torch.export.Dim("batch")

    def shape(value: Any) -> Any:
        return {0: dim} if _has_batch(value, size) else None

    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    return {name: pytree.tree_map(shape, value) for name, value in bound.items()}


def _batch(call: Call) -> int:
    """The size of dim 0 of the first tensor."""
    first = _tensors(call)[0]
    if first.dim() == 0:
        raise ExportError(
            "the first tensor of example_inputs has no dims, and so no batch: pass dynamic_batch=False (--fixed_batch)"
        )
    return first.shape[0]


def _has_batch(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size


def _twice(call: Call) -> Call:
    """The same call on two copies of one sample."""
    twice: Call = pytree.tree_map(lambda v: torch.cat([v, v]) if _has_batch(v, 1) else v, call)
    return twice


def _calls(call: Call, dynamic_batch: bool) -> Iterator[Call]:
    """The example, and one sample more."""
    yield call
    if dynamic_batch:
        size = _batch(call)
        yield pytree.tree_map(lambda v: torch.cat([v, v[:1]]) if _has_batch(v, size) else v, call)


def _compare(module: nn.Module, call: Call, found: Sequence[Tensor], what: str) -> None:
    """Hold outputs against those of the module."""
    args, kwargs = copied(call)
    expected = _tensors(module(*args, **kwargs))
    shapes = [tuple(t.shape) for t in found], [tuple(t.shape) for t in expected]
    if shapes[0] != shapes[1]:
        raise ExportError(f"{what} gives outputs of the shapes {shapes[0]}, {_name(module)} of {shapes[1]}")
    for ours, theirs in zip(expected, found, strict=True):
        ours, theirs = ours.cpu(), theirs.cpu()
        if not ours.is_floating_point() and not ours.is_complex():
            differs = not torch.equal(ours, theirs)
        else:
            largest = max(1.0, float(ours.abs().nan_to_num(posinf=0.0).max())) if ours.numel() else 1.0
            differs = not torch.allclose(theirs, ours, rtol=0.0, atol=TOLERANCE * largest, equal_nan=True)
        if differs:
            raise ExportError(
                f"{what} gives other outputs than {_name(module)}, by {_difference(ours, theirs)}, more than "
                f"{TOLERANCE:g} of the largest. Where the network draws random numbers in eval mode, it has no fixed "
                "outputs; else it is a fault of the exporter, which the python format does without"
            )


def _difference(ours: Tensor, theirs: Tensor) -> str:
    return f"{float((ours.double() - theirs.double()).abs().max()):.2g}"


def _tensors(nest: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]


def _name(module: nn.Module) -> str:
    name = type(module).__name__
    return "the network" if name == "GraphModule" else name


def _brief(error: BaseException) -> str:
    """The kind of an error and the line that says most: the first, or the first of the list that follows it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line.removeprefix("- ") for line in lines if line.startswith("- ")), lines[0] if lines else "")
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


@contextlib.contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the modes and the state of random numbers are put back."""
    modes: Mapping[nn.Module, bool] = {part: part.training for part in module.modules()}
    try:
        with undisturbed(), torch.no_grad():
            module.eval()
            yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that torch's exporters and onnxscript give about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
