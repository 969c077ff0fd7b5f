"""A network as one file of Python that needs torch only."""

from __future__ import annotations

import keyword
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conet_fx.errors import ExportError
from conet_fx.export.classes import FEW, UNPACKED, UNPACKED_SOURCE, Writer
from conet_fx.export.expressions import BUILTINS, Imports, quoted
from conet_fx.export.layout import wrapped
from conet_fx.export.programs import copied, example_call
from conet_fx.passes.inputs import Inputs
from conet_fx.passes.nodes import tensors
from conet_fx.passes.shapes import undisturbed
from conet_fx.recipe.build import build, named_tensors, need_graph
from conet_fx.recipe.files import WEIGHTS
from conet_fx.recipe.spec import Recipe, TensorSpec

_HEADER = '''"""{name}, written by conet-fx: {parameters:,} parameters. The weights lie in a file of their own.

    network = {name}()
    network.load_state_dict(safetensors.torch.load_file("{weights}"))
    network.eval()
"""

'''
_LOAD = '''    def load_state_dict(self, state_dict, *args, **options):
        """As ever, and from {weights} too, with shared tensors once and buffers that no state_dict has."""
        state_dict = dict(state_dict)
'''


def write_source(recipe: Recipe, name: str) -> str:
    """The source of a module ``name`` that computes what the recipe's graph does, under the same names.

    Raises:
        ExportError: something has no form as source, with what to do instead.
        RecipeError: the recipe asks for what it may not.
    """
    need_graph(recipe)
    module = build(recipe)
    imports = Imports()
    try:
        writer = Writer(recipe, module.graph, name, imports)
    except RecursionError:
        raise ExportError("the modules are nested too deep to be written as source") from None
    blocks = ["\n".join(block) for block in writer.blocks]
    blocks[-1] += "".join(_loading(recipe))
    if any(f"{UNPACKED}(" in block for block in blocks):
        blocks.insert(0, UNPACKED_SOURCE)
    parameters = sum(tensor.numel() for tensor in module.parameters())
    text = _HEADER.format(name=name, parameters=parameters, weights=WEIGHTS)
    text += "\n".join(_imports(imports, "\n".join(blocks))) + "\n\n\n" + "\n\n\n".join(blocks) + "\n"
    _check(text, name, recipe)
    return text


def class_name(text: str) -> str:
    """A name of a class from the name of the user's class, ``Network`` where that gives none."""
    name = text.rpartition(".")[2]
    taken = {*BUILTINS, *keyword.kwlist, "F", "GraphModule", "OrderedDict", "math", "nn", "operator", "torch"}
    plain = name.isidentifier() and name.isascii() and not name.startswith("_")
    return name if plain and name not in taken else "Network"


def _imports(imports: Imports, body: str) -> Iterator[str]:
    packages = imports.modules - {"torch", "torch.nn", "torch.nn.functional", "collections", "torch._C._nn"}
    if "OrderedDict(" in body:
        yield "from collections import OrderedDict"
    standard = sorted(packages & {"math", "operator"})
    yield from (f"import {package}" for package in standard)
    if standard or "OrderedDict(" in body:
        yield ""
    others = sorted(package for package in packages - {*standard} if not package.startswith("torch."))
    if re.search(r"\btorch\.", body):
        yield "import torch"
    if re.search(r"\bF\.", body):
        yield "import torch.nn.functional as F"
    yield from (f"import {package}" for package in others)
    yield "from torch import nn"


def _loading(recipe: Recipe) -> Iterator[str]:
    """A ``load_state_dict`` that takes the weights of a recipe, where these are not the tensors of a state dict."""
    shared = {name: spec.same_as for name, spec in recipe.tensors.items() if spec.same_as and spec.persistent}
    apart = [name for name, spec in recipe.tensors.items() if not spec.persistent and not spec.same_as]
    large = [name for name in apart if recipe.weights[name].numel() > FEW]
    if not shared and not apart:
        return
    yield "\n\n" + _LOAD.format(weights=WEIGHTS)
    lines = []
    if shared:
        pairs = ", ".join(f"{quoted(name)}: {quoted(first)}" for name, first in shared.items())
        lines += [
            *wrapped(f"shared = {{{pairs}}}", 2),
            "        for name, first in shared.items():",
            "            if first in state_dict:",
            "                state_dict.setdefault(name, state_dict[first])",
        ]
    if apart:
        lines += [
            *wrapped(f"apart = [{', '.join(map(quoted, apart))}]", 2),
            "        for name in apart:",
            "            if name in state_dict:",
            "                self.get_buffer(name).copy_(state_dict.pop(name))",
        ]
    if large:
        lines += [
            f"            elif self.get_buffer(name).numel() > {FEW}:  # smaller ones are written out above",
            f'                raise KeyError(f"{{name}} is in no state dict: load {WEIGHTS}")',
        ]
    lines += ["        return super().load_state_dict(state_dict, *args, **options)"]
    yield "\n".join(lines)


def check_outputs(text: str, name: str, recipe: Recipe, example: Inputs) -> None:
    """Run the source and the network of the recipe on an example. Raises :class:`ExportError` where they differ."""
    namespace: dict[str, Any] = {"__name__": "exported"}
    exec(compile(text, f"<{name}>", "exec"), namespace)
    expected = build(recipe)
    outputs = []
    with undisturbed(), torch.no_grad():
        made = namespace[name]()
        made.load_state_dict(recipe.weights)
        for module in (made, expected):
            args, kwargs = copied(example_call(expected, example), "cpu")  # where a recipe is built
            outputs.append(tensors(module.eval()(*args, **kwargs)))
    for ours, theirs in zip(*outputs, strict=True):
        if not torch.equal(ours.nan_to_num(), theirs.nan_to_num()):
            raise ExportError("the source that was written gives other outputs, please report this")


def _check(text: str, name: str, recipe: Recipe) -> None:
    """Construct the network on the meta device, and hold its tensors against those of the recipe."""
    namespace: dict[str, Any] = {"__name__": "exported"}
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its user has seen what torch thinks of such arguments
            exec(compile(text, f"<{name}>", "exec"), namespace)
            made: nn.Module = namespace[name]()
    except Exception as error:
        raise ExportError(f"the source that was written does not run, please report this: {error!r}\n{text}") from error
    found, wanted = _tensors(made), _wanted(recipe)
    if found != wanted:
        differ = [f"{key}: {found.get(key)}, not {wanted.get(key)}" for key in found | wanted if
                  found.get(key) != wanted.get(key)]  # fmt: skip
        raise ExportError(f"the source that was written has other tensors, please report this: {'; '.join(differ[:3])}")


def _tensors(module: nn.Module) -> dict[str, str]:
    kept = module.state_dict(keep_vars=True).keys()
    firsts: dict[int, str] = {}
    return {
        name: _told(tensor, tensor, isinstance(tensor, nn.Parameter), name in kept, firsts.setdefault(id(tensor), name))
        for name, tensor in sorted(named_tensors(module), key=lambda pair: pair[0])
    }


def _wanted(recipe: Recipe) -> dict[str, str]:
    firsts: dict[str, str] = {}
    told = {}
    for name, spec in sorted(recipe.tensors.items()):
        first = spec.same_as or name
        tensor, kind = recipe.weights[first], recipe.tensors[first]
        shared = firsts.setdefault(first, name)
        told[name] = _told(tensor, kind, kind.parameter, spec.persistent or kind.parameter, shared)
    return told


def _told(tensor: Tensor, kind: Tensor | TensorSpec, parameter: bool, kept: bool, first: str) -> str:
    what = f"{'parameter' if parameter else 'buffer'} of {tuple(tensor.shape)} {tensor.dtype}"
    trains = f", trains: {kind.requires_grad}" if parameter else ""
    return f"{what}{trains}, in the state dict: {kept}, same as {first}"
