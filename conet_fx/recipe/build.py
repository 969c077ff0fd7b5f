"""Recipe -> GraphModule. Nothing that a recipe says is believed before it was checked."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn.utils import parametrizations

from conet_fx.errors import RecipeError
from conet_fx.passes.names import spell_out
from conet_fx.passes.nodes import attribute
from conet_fx.passes.paths import ONLY_IN, by_mode
from conet_fx.passes.reload import Reload
from conet_fx.passes.two_paths import TwoPaths
from conet_fx.recipe.files import RECIPE, WEIGHTS
from conet_fx.recipe.names import attributes, classes, functions, methods, name_in, short
from conet_fx.recipe.spec import MAX_DEPTH, MAX_ENTRIES, MAX_ITERATIONS, MAX_LAYERS, MAX_NAME, ModuleSpec, Recipe
from conet_fx.recipe.values import decode, decode_annotation, decode_call


def build(recipe: Recipe) -> GraphModule:
    """The network: modules on the meta device, weights, graph; each step checks what the next relies on. Of a recipe
    without a graph, its modules and weights.

    The weights may be on the meta device, which gives a network that cannot run, but shows that the rest is right.

    Raises:
        RecipeError: the recipe asks for what it may not, or for what does not fit together.
    """
    if recipe.call:
        decode_call(recipe.call)
    for what in ("groups", "modules", "tensors", "nodes"):
        if len(getattr(recipe, what)) > MAX_ENTRIES:
            raise RecipeError(f"the recipe has {len(getattr(recipe, what))} {what}, more than {MAX_ENTRIES}")
    root = (TwoPaths if _has_two_paths(recipe) else GraphModule)(nn.Module(), Graph(tracer_cls=Reload))
    try:
        leaves = _build_modules(root, recipe)
        _build_tensors(root, recipe, leaves)
        _check_groups(root, recipe)
        if recipe.has_graph:
            root.graph = spell_out(_build_graph(recipe, leaves.keys()))
    except RecipeError:
        raise
    except Exception as error:  # whatever torch has against the wishes of an unknown file
        raise RecipeError(
            f"the recipe (written by torch {recipe.torch}, this is {torch.__version__}) cannot be built: "
            f"{type(error).__name__}: {str(error)[:1000]}"
        ) from error
    return root


def need_graph(recipe: Recipe) -> None:
    """Raise RecipeError where there is no network without the user's class."""
    if not recipe.has_graph:
        name = short(recipe.model.get("class", "the model"))
        raise RecipeError(
            f"the recipe has no graph, since {name} was traced in pieces, or calls code that is no data: only its own "
            "class runs. Build an instance and call conet_fx.apply(instance, dir), which gives it the sizes and weights"
        )


def _build_modules(root: GraphModule, recipe: Recipe) -> dict[str, nn.Module]:
    """Fill ``root`` with its modules, their tensors on the meta device. Returns the leaves by path."""
    containers: dict[str, nn.Module] = {}
    leaves: dict[str, nn.Module] = {}
    tensors = Counter(name.rpartition(".")[0] for name in recipe.tensors)
    for path, spec in recipe.modules.items():
        if spec.same_as is not None:
            if spec.same_as not in leaves:
                raise RecipeError(f"module {path!r} is to be the same as {spec.same_as!r}, which is no leaf before it")
            module = leaves[path] = leaves[spec.same_as]
        elif spec.cls is not None:
            module = leaves[path] = construct(path, spec, tensors[path])
        else:
            module = containers[path] = nn.Module() if path else root
            module.training = spec.training
        if module is not root:
            parent, _, name = _split_path(path)
            if parent not in containers:
                raise RecipeError(f"module {path!r} lies in {parent!r}, which is no container before it")
            containers[parent].add_module(name, module)
    return leaves


def construct(path: str, spec: ModuleSpec, tensors: int) -> nn.Module:
    """One leaf on the meta device, where sizes of any magnitude take no memory.

    ``tensors``: how many of its own it has in the files. A recurrent layer makes several for each of its layers, so
    that a number of layers that they do not fill is refused before anything is made.
    """
    cls = classes().get(spec.cls or "")
    if cls is None:
        raise RecipeError(f"module {path!r} is a {spec.cls}, which is not among the classes that a recipe may name")
    if unknown := spec.arguments.keys() - constructor(cls).keys():
        raise RecipeError(f"module {path!r} ({spec.cls}) takes no argument {min(unknown)!r}")
    arguments = {name: decode(value, {}) for name, value in spec.arguments.items()}
    if issubclass(cls, nn.RNNBase):
        _check_layers(path, arguments, tensors)
    module: nn.Module
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its user has seen what torch thinks of such arguments
            module = _MAKERS.get(cls, cls)(**arguments)
    except Exception as error:  # whatever the class has against these arguments
        raise RecipeError(
            f"module {path!r}, {spec.cls}(**{short(arguments)}): {type(error).__name__}: {str(error)[:1000]}"
        ) from error
    return module.train(spec.training)


def _attention(*, packed: Any = True, **arguments: Any) -> nn.MultiheadAttention:
    """An attention which keeps three weights (not ``packed``) also where its inputs have come to be of one width."""
    width = arguments["embed_dim"]
    if packed or not all(arguments.get(name) in (None, width) for name in ("kdim", "vdim")):
        return nn.MultiheadAttention(**arguments)
    module = nn.MultiheadAttention(**{**arguments, "kdim": width + 1})
    module.kdim = width
    module.k_proj_weight = nn.Parameter(torch.empty(width, width))
    return module


def _spectral_norm(*, weight_shape: Any, **arguments: Any) -> nn.Module:
    """The norm of a weight of this shape."""
    if arguments.get("n_power_iterations", 1) > MAX_ITERATIONS:
        raise ValueError(f"more than {MAX_ITERATIONS} power iterations")
    return parametrizations._SpectralNorm(torch.empty(weight_shape), **arguments)


_MAKERS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.MultiheadAttention: _attention,
    parametrizations._SpectralNorm: _spectral_norm,
}


def _check_layers(path: str, arguments: Mapping[str, Any], tensors: int) -> None:
    layers = arguments.get("num_layers", 1)
    each = (2 if arguments.get("bidirectional") else 1) * (4 if arguments.get("bias", True) else 2)
    if isinstance(layers, int) and layers > min(MAX_LAYERS, tensors // each):
        raise RecipeError(
            f"module {path!r} is to have {layers} recurrent layers of {each} tensors each, but has {tensors} tensors; "
            f"no more than {MAX_LAYERS} layers are built in any case"
        )


def _build_tensors(root: GraphModule, recipe: Recipe, leaves: Mapping[str, nn.Module]) -> None:
    """Put the weights into the modules; a leaf gets all its tensors, of the shapes that its class gives."""
    expected = {path: signature(leaf) for path, leaf in leaves.items()}
    built: dict[str, Tensor] = {}
    for name, spec in recipe.tensors.items():
        path, _, key = _split_path(name)
        if spec.same_as is not None:
            if spec.same_as not in built:
                raise RecipeError(
                    f"tensor {name!r} is to be the same as {spec.same_as!r}, which is no tensor before it"
                )
            tensor = built[spec.same_as]
        elif name not in recipe.weights:
            raise RecipeError(f"tensor {name!r} is in {RECIPE}, but not in {WEIGHTS}")
        elif spec.parameter:
            tensor = nn.Parameter(recipe.weights[name], spec.requires_grad)
        else:
            tensor = recipe.weights[name]
        built[name] = tensor
        owner = root.get_submodule(path)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(key, tensor)
        else:
            owner.register_buffer(key, tensor, spec.persistent)
    if unused := recipe.weights.keys() - built.keys():
        raise RecipeError(f"tensor {min(unused)!r} is in {WEIGHTS}, but not in {RECIPE}")
    placed = {id(tensor) for tensor in built.values()}
    for path, leaf in leaves.items():
        found = signature(leaf)
        for name in sorted(found.keys() | expected[path].keys()):
            if found.get(name) != expected[path].get(name):
                raise RecipeError(
                    f"tensor {name!r} of {path!r} is {_said(found.get(name))} in the files, but "
                    f"{_said(expected[path].get(name))} by the arguments of its {recipe.modules[path].cls}"
                )
        for name, tensor in named_tensors(leaf):
            if id(tensor) not in placed:
                raise RecipeError(f"tensor {name!r} of {path!r} is in neither file")
        refresh(leaf)


def _check_groups(root: GraphModule, recipe: Recipe) -> None:
    """A group is named after what writes it first, which has as many channels at least."""
    for name, group in recipe.groups.items():
        path, _, number = name.rpartition("#")
        path = path if path and number.isdigit() else name
        writer = attribute(root, path)
        if isinstance(writer, nn.Module):
            channels = getattr(writer, "out_channels", None) or getattr(writer, "out_features", None)
            most = channels or sum(tensor.numel() for _, tensor in named_tensors(writer))
        elif isinstance(writer, Tensor):
            most = writer.numel()
        else:
            raise RecipeError(f"group {name!r} is named after no module or tensor of the recipe")
        if group.quantum < 1 or not 1 <= group.size <= most or group.size % group.quantum:
            raise RecipeError(
                f"group {name!r} is to have {group.size} channels in steps of {group.quantum}, but what writes it has "
                f"{most}"
            )


def _build_graph(recipe: Recipe, leaves: Collection[str]) -> Graph:
    """The graph; every name in it is checked, because fx will write them into the source of ``forward``."""
    known_functions, known_methods = functions(), methods()
    graph = Graph()
    nodes: dict[str, Node] = {}
    returned: set[Node] = set()  # nests that a mode chooses; in others they would grow by powers
    for spec in recipe.nodes:
        where = f"node {spec.name!r} ({spec.op} {spec.target})"
        args = tuple(decode(spec.args, nodes))
        kwargs = {name: decode(value, nodes) for name, value in spec.kwargs.items()}
        if not all(map(_is_identifier, [spec.name, *kwargs])):
            raise RecipeError(f"{where} or one of its arguments has a name that Python does not allow")
        target: Any = spec.target
        match spec.op:
            case "placeholder":
                allowed = _is_identifier(target.lstrip("*")) and len(args) <= 1 and not kwargs
            case "get_attr":
                path, _, key = target.rpartition(".")
                allowed = target in recipe.tensors or (key == "training" and path in recipe.modules)
            case "call_module":
                allowed = target in leaves
            case "call_method":
                allowed = target in known_methods and bool(args) and isinstance(args[0], Node)
            case "call_function":
                target = known_functions.get(target)
                allowed = target is not None and (target is not getattr or _is_plain_getattr(args, kwargs))
                allowed = allowed and (target is not by_mode or (len(args) == 3 and not kwargs))
            case "output":
                allowed = spec is recipe.nodes[-1] and len(args) == 1 and not kwargs
            case _:
                allowed = False
        if not allowed:
            raise RecipeError(f"{where} is not among the operators that a recipe may name")
        if spec.only_in not in ("", "train", "eval") or (spec.only_in and spec.op in ("placeholder", "output")):
            raise RecipeError(f"{where} runs in the mode {spec.only_in!r}, which is none")
        annotation = None if spec.annotation is None else decode_annotation(spec.annotation)
        node = graph.create_node(spec.op, target, args, kwargs, spec.name, annotation)
        if node.name != spec.name:
            raise RecipeError(f"{where} has a name that is taken")
        if spec.wrapped:
            node.meta["is_wrapped"] = True
        if spec.scope:
            node.meta["scope"] = spec.scope
        if spec.only_in:
            node.meta[ONLY_IN] = spec.only_in
        if not returned.isdisjoint(node.all_input_nodes) and (spec.op != "output" or args[0] not in returned):
            raise RecipeError(f"{where} uses what the network returns in each mode")
        if target is by_mode and not all(isinstance(value, Node) for value in args[1:]):
            returned.add(node)
        nodes[spec.name] = node
    if recipe.nodes[-1].op != "output":
        raise RecipeError("the graph has no output")
    return graph


def _has_two_paths(recipe: Recipe) -> bool:
    name = name_in(functions(), by_mode)
    return any(spec.only_in or (spec.op == "call_function" and spec.target == name) for spec in recipe.nodes)


def _is_plain_getattr(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    match args:
        case (Node(), str(attribute)):
            return attribute in attributes() and not kwargs
    return False


def _is_identifier(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and not iskeyword(name)


def _split_path(path: str) -> tuple[str, str, str]:
    """``path.rpartition(".")``, once it is certain that fx may write the path into source code."""
    parts = path.split(".") if len(path) <= MAX_NAME else []
    plain = all(part and part.isprintable() and not (part[:2] == part[-2:] == "__") for part in parts)
    if not 0 < len(parts) <= MAX_DEPTH or not plain or {*path} & {*"\"'\\"}:
        raise RecipeError(f"{short(path)} is no path of a module or tensor")
    return path.rpartition(".")


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers, under all of their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return itertools.chain(parameters, module.named_buffers(remove_duplicate=False))


def signature(module: nn.Module) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Kind and shape of each tensor of a leaf."""
    return {
        name: ("parameter" if isinstance(tensor, nn.Parameter) else "buffer", tuple(tensor.shape))
        for name, tensor in named_tensors(module)
    }


def _said(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "none" if tensor is None else f"a {tensor[0]} of {short(tensor[1])}"


def refresh(module: nn.Module) -> None:
    """Let a recurrent layer, which has its weights in a list too, see those that it was given."""
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module other than its tensors, children, hooks and mode."""
    return {name: value for name, value in vars(module).items() if name not in _MODULE_ATTRIBUTES}


_MODULE_ATTRIBUTES = frozenset((*vars(nn.Module()), "_flat_weights", "_flat_weight_refs"))


def constructor(cls: type[nn.Module]) -> dict[str, Any]:
    """The arguments that ``cls`` is constructed with and their defaults, without device, dtype and private ones."""
    parameters = inspect.signature(nn.RNNBase if cls in _RECURRENT else cls).parameters
    arguments = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in ("device", "dtype")
        and (parameter.default is parameter.empty or not name.startswith("_"))
    }
    if cls in _RECURRENT:
        arguments = {name: value for name, value in arguments.items() if name not in ("mode", "proj_size")}
        arguments |= _RECURRENT[cls]
    if cls is nn.MultiheadAttention:
        arguments["packed"] = True
    if cls is parametrizations._SpectralNorm:
        arguments = {"weight_shape": arguments.pop("weight"), **arguments}
    return arguments


# Their signature is (*args, **kwargs): what they take besides the arguments of their base.
_RECURRENT: dict[type[nn.Module], dict[str, Any]] = {
    nn.RNN: {"nonlinearity": "tanh"},
    nn.GRU: {},
    nn.LSTM: {"proj_size": 0},
}
