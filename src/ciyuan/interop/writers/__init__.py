"""A model in the files of another runtime: one module for each format. What they write is proven in `ciyuan.export`."""

from ciyuan.interop.writers.written import Written, outputs_of

__all__ = ["Written", "outputs_of"]
