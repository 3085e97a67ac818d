"""Every model out, with proof: written in another runtime's files, reopened there in a fresh process, and compared."""

from ciyuan.export.export import Exported, export
from ciyuan.export.formats import FORMATS

__all__ = ["FORMATS", "Exported", "export"]
