"""How torch rebuilds the graph of a GraphModule that was pickled (``torch.save(module)``).

torch.fx pickles the generated code of a GraphModule and traces it anew on loading, with the tracer class that the graph
names. Its own tracer would read ``self.training`` and buffers as constants of that moment, take noise that it draws
then for a constant, too, and fail where a tensor is made whose sizes are values of the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from conet_fx.passes import custom
from conet_fx.passes.names import spell_out
from conet_fx.passes.patches import functions_that_take_proxies
from conet_fx.passes.randomness import random_numbers_drawn_anew


class _Proxy(fx.Proxy):
    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


class Reload(fx.Tracer):
    """Traces the code that torch.fx generated for one of our graphs, so that the same graph comes out."""

    proxy_buffer_attributes = True

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of ``root``, a module with generated code, in which ``training`` stays an attribute."""
        assert isinstance(root, nn.Module)
        # where fx looks attributes up, and keeps them symbolic
        root._buffers["training"] = root.__dict__.pop("training")
        try:
            with (
                custom.recording(),
                functions_that_take_proxies(),
                random_numbers_drawn_anew(self._draw, lambda: False),
            ):
                return spell_out(super().trace(root, concrete_args))
        finally:
            root.__dict__["training"] = root._buffers.pop("training")

    def _draw(self, function: Callable[..., Any], args: Any, options: Any) -> fx.Proxy:
        return self.create_proxy("call_function", function, args, options)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that records assignments to items, as the generated code makes them."""
        return _Proxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Attributes that the generated code reads: the flag is recorded, the rest is as in torch.fx."""
        if attr == "training" and isinstance(attr_val, bool):
            if attr not in parameter_proxy_cache:
                parameter_proxy_cache[attr] = self.create_proxy("get_attr", attr, (), {})
            return parameter_proxy_cache[attr]
        return super().getattr(attr, attr_val, parameter_proxy_cache)
