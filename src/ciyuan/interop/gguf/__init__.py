"""GGUF files, which llama.cpp and its kin run: read without trusting a byte, and written so that they load."""

from ciyuan.interop.gguf.files import DTYPES, read_gguf, write_gguf

__all__ = ["DTYPES", "read_gguf", "write_gguf"]
