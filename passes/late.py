"""Graph modules whose code is written when it is first asked for."""

from __future__ import annotations

import weakref
from typing import Any, cast

from torch import fx
from torch.fx.graph import PythonCode


class Late(fx.GraphModule):
    """A GraphModule that writes its code when that is first asked for, and is like any other from then on: nobody runs
    a graph to analyse it, and its code would take a tenth of the time.
    """

    __jit_unused_properties__ = ["graph", "_boxed_call", "code"]  # noqa: RUF012  # torch.jit.script leaves them out

    def recompile(self) -> PythonCode:
        """Write the code anew, after the graph was changed."""
        own = cast(Any, type(self))  # every GraphModule has a class of its own
        if "forward" in vars(own):
            return super().recompile()
        own.forward = _WrittenAtFirst(self)
        return cast(PythonCode, None)  # the constructor, which is who calls this first, does not look at it

    @property
    def code(self) -> str:
        """The code, as of the last :meth:`recompile`."""
        _ = self.forward
        return super().code

    def __str__(self) -> str:
        _ = self.forward
        return super().__str__()

    def __reduce__(self) -> Any:
        _ = self.forward
        return super().__reduce__()

    def __reduce_package__(self, exporter: Any) -> Any:
        _ = self.forward
        return super().__reduce_package__(exporter)


class _WrittenAtFirst:
    """Stands for ``forward`` until somebody looks at it, in the class or in the module."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = weakref.ref(module)

    def __get__(self, module: fx.GraphModule | None, owner: type) -> Any:
        written = self._module()
        assert written is not None
        written.recompile()
        return getattr(owner if module is None else module, "forward")  # noqa: B009  # it is another one now
