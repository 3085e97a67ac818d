"""CTranslate2's converter on a Hugging Face folder of ours. The request: source, out, quantization."""

import json
import pathlib
import sys
from typing import Any

import ctranslate2
from ctranslate2.converters import transformers as loaders


class MarianLoader(loaders.MarianMTLoader):  # type: ignore[misc]
    """A Marian model whose decoder starts from a token of its own.

    OPUS-MT's starts from PAD, which is the last of the vocabulary and has an embedding of zeros; CTranslate2 takes that for
    granted, and drops the last row of every table.
    """

    def get_model_spec(self, model: Any) -> Any:
        model.config.normalize_before = model.config.normalize_embedding = False
        return loaders.BartLoader.get_model_spec(self, model)

    def set_decoder(self, spec: Any, decoder: Any) -> Any:
        loaders.BartLoader.set_decoder(self, spec, decoder)

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> Any:
        loaders.BartLoader.set_config(self, config, model, tokenizer)

    def get_vocabulary(self, model: Any, tokenizer: Any) -> Any:
        return loaders.BartLoader.get_vocabulary(self, model, tokenizer)


class T5Loader(loaders.T5Loader):  # type: ignore[misc]
    """A T5 model that scales its decoder's output where its config.json says so; release 5 of transformers calls every T5 tied."""

    def get_model_spec(self, model: Any) -> Any:
        model.config.tie_word_embeddings = model.config.scale_decoder_outputs
        return super().get_model_spec(model)


class M2M100Loader(loaders.M2M100Loader):  # type: ignore[misc]
    """A M2M100 model, whose positions are counted from the one after PAD; CTranslate2 takes PAD to be 1."""

    def set_position_encodings(self, spec: Any, module: Any) -> Any:
        spec.encodings = module.weights[module.padding_idx + 1 :]


class BertLoader(loaders.BertLoader):  # type: ignore[misc]
    """A BERT model, of which release 5 of transformers no longer says that its positions are absolute: there are no others."""

    def get_model_spec(self, model: Any) -> Any:
        model.config.position_embedding_type = "absolute"
        return super().get_model_spec(model)


def main() -> None:
    request = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    settings = json.loads((pathlib.Path(request["source"]) / "config.json").read_text(encoding="utf-8"))
    if settings["model_type"] == "marian":
        last = settings["vocab_size"] - 1
        if not settings["pad_token_id"] == settings["decoder_start_token_id"] == last:
            loaders.register_loader("MarianConfig")(MarianLoader)
    for name, loader in {"BertConfig": BertLoader, "M2M100Config": M2M100Loader, "T5Config": T5Loader}.items():
        loaders.register_loader(name)(loader)
    converter = ctranslate2.converters.TransformersConverter(request["source"])
    converter.convert(request["out"], quantization=request["quantization"], force=True)


if __name__ == "__main__":
    main()
