"""What a search did and whether it paid off: tables and progress for the terminal, pages, TensorBoard."""

from conet_fx.report.collect import collect
from conet_fx.report.comparison import comparison
from conet_fx.report.observer import Observer
from conet_fx.report.page import page
from conet_fx.report.progress import Progress
from conet_fx.report.run import Run
from conet_fx.report.tables import tables
from conet_fx.report.tensorboard import TensorBoard
from conet_fx.report.verdict import verdict

__all__ = ["Observer", "Progress", "Run", "TensorBoard", "collect", "comparison", "page", "tables", "verdict"]
