"""A model folder is a Hugging Face folder: written so that `transformers` loads it, read without trusting a byte of it.

config.json · model.safetensors · tokenizer.json · tokenizer_config.json · generation_config.json · README.md: everybody's
ciyuan.json: what is ours alone
"""

from ciyuan.interop.folder import INFO
from ciyuan.interop.huggingface.classes import family_of, with_head
from ciyuan.interop.huggingface.reading import Loaded, Unfilled, load_model_folder, load_transformer
from ciyuan.interop.huggingface.roles import check_tokenizer
from ciyuan.interop.huggingface.writing import save_model_folder, to_hugging_face, tokenizer_files, write_files

__all__ = [
    "INFO",
    "Loaded",
    "Unfilled",
    "check_tokenizer",
    "family_of",
    "load_model_folder",
    "load_transformer",
    "save_model_folder",
    "to_hugging_face",
    "tokenizer_files",
    "with_head",
    "write_files",
]
