"""The settings of the paper's experiments, as data classes and as files: ``conet-fx search --recipe NAME``."""

from conet_fx.recipes.recipes import Recipe, names, path, read, recipe

__all__ = ["Recipe", "names", "path", "read", "recipe"]
