"""The tokenizer files that a model is saved with."""

from __future__ import annotations

import shutil
from pathlib import Path

from flaxdistill.data.tokenizer import LOCAL_KEYS
from flaxdistill.hub.families.base import Family
from flaxdistill.models.architecture import Architecture
from flaxdistill.runtime.files import read_json, write_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "merges.txt",
    "vocab.json",
    "special_tokens_map.json",
)
"""Files that are copied with a model."""


def copy_tokenizer(source: Path | None, target: Path, family: Family, config: Architecture) -> None:
    """Copy the tokenizer files of ``source``, with the input names and maximum length of a model.

    Fields of tokenizer_config.json that record where the tokenizer came from are left out.
    """
    for name in TOKENIZER_FILES:
        if source is None or not (source / name).is_file():
            continue
        if name != "tokenizer_config.json":
            shutil.copyfile(source / name, target / name)
            continue
        fields = {
            key: value for key, value in read_json(source / name).items() if key not in LOCAL_KEYS
        }
        # transformers 4 does not have this class.
        if fields.get("tokenizer_class") == "TokenizersBackend":
            fields["tokenizer_class"] = "PreTrainedTokenizerFast"
        # transformers 4 fails if the tokenizer returns an input that the model does not take.
        types = ["token_type_ids"] if family.token_type_ids else []
        fields["model_input_names"] = ["input_ids", *types, "attention_mask"]
        length = fields.get("model_max_length")
        lengths = [length] if isinstance(length, (int, float)) and length > 0 else []
        fields["model_max_length"] = min([*lengths, config.max_positions])
        write_json(target / name, fields)
