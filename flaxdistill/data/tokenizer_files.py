"""Readers of the tokenizer files that Hugging Face models come with."""

import json
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.runtime.files import read_json

SPECIAL_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""Names of each special token, in the order in which they are tried: BERT's, then RoBERTa's."""

BERT_TOKENS = [names[0] for names in SPECIAL_NAMES.values()]


def bert_normalizer(lowercase: bool, chinese: bool = True, strip_accents: bool | None = None):
    """Create BERT's normalizer."""
    from tokenizers import normalizers

    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )


def wordpiece_tokenizer(ids: dict[str, int], unk: str):
    """Create BERT's uncased tokenizer from a table of pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unk, max_input_chars_per_word=100))
    tokenizer.normalizer = bert_normalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def find_special_tokens(ids: dict[str, int], config: dict, source: str) -> dict[str, str]:
    """Return the text of each of the five special tokens, as configured or as BERT or RoBERTa."""
    tokens = {}
    for role, names in SPECIAL_NAMES.items():
        configured = config.get(f"{role}_token")
        if isinstance(configured, dict):  # a serialised AddedToken
            configured = configured.get("content")
        if configured is not None and not isinstance(configured, str):
            raise UserError(
                f'the config of {source} has {configured!r:.60} for "{role}_token"; write a text'
            )
        candidates = [configured] if configured else list(names)
        token = next((name for name in candidates if name in ids), None)
        if token is None:
            raise UserError(
                f"{source} has no {role} token: looked for {' and '.join(candidates)} among "
                f"{len(ids)} tokens; add it to the vocabulary, "
                f'or name it as "{role}_token" in tokenizer_config.json'
            )
        tokens[role] = token
    return tokens


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}); copy it again") from error


def _read_tokenizer_json(path: Path, config: dict):
    from tokenizers import Tokenizer

    read_json(path)  # reports the line of a syntax error, which the Rust parser does not
    try:
        return Tokenizer.from_str(_read_text(path))
    except Exception as error:  # the Rust side raises nothing narrower
        raise UserError(
            f"{path} is not a tokenizer that `tokenizers` can read ({error}); copy it again"
        ) from error


def _read_vocab_txt(path: Path, config: dict):
    # Not splitlines(): some tokens are characters that it treats as line breaks.
    lines = _read_text(path).removesuffix("\n").split("\n")
    ids = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
    tokens = find_special_tokens(ids, config, str(path))
    tokenizer = wordpiece_tokenizer(ids, tokens["unk"])
    tokenizer.normalizer = bert_normalizer(
        config.get("do_lower_case", True),
        config.get("tokenize_chinese_chars", True),
        config.get("strip_accents"),
    )
    return tokenizer


def _read_bpe(path: Path, config: dict):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    merges = path.with_name("merges.txt")
    if not merges.is_file():
        raise UserError(
            f"{path} needs merges.txt in the same folder, which does not exist; "
            "copy it from the model"
        )
    ids = read_json(path)
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < 2**32:
            raise UserError(
                f"{path} gives {token!r:.60} the id {i!r:.60}; an id is a whole number below 2^32"
            )
    tokens = find_special_tokens(ids, config, str(path))
    try:
        model = models.BPE.from_file(str(path), str(merges))
    except Exception as error:  # the Rust side raises nothing narrower
        raise UserError(
            f"{path} and {merges.name} do not belong together ({error}); copy both from one model"
        ) from error
    tokenizer = Tokenizer(model)
    prefix = config.get("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (tokens["sep"], ids[tokens["sep"]]),
        (tokens["cls"], ids[tokens["cls"]]),
        add_prefix_space=prefix,
    )
    # RoBERTa's mask absorbs the space before it, as in the published tokenizer.
    tokenizer.add_special_tokens([AddedToken(tokens["mask"], lstrip=True, special=True)])
    return tokenizer


def add_numbered_tokens(tokenizer, path: Path) -> None:
    """Add the tokens of added_tokens.json, which extend vocab.txt or vocab.json.

    Raises UserError if they do not get the ids that the file gives them.
    """
    from tokenizers import AddedToken

    numbers = read_json(path)
    for token, number in sorted(numbers.items(), key=lambda item: str(item[1]).zfill(12)):
        if tokenizer.token_to_id(token) is None:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
        if tokenizer.token_to_id(token) != number:
            raise UserError(
                f"{path} gives {token!r:.60} the id {number!r:.60}, and it would be "
                f"{tokenizer.token_to_id(token)}; copy both files from one model"
            )


def make_encoder(tokenizer, extra: set[str]) -> Any:
    """Return the tokenizer, or a copy in which the special tokens ``extra`` are ordinary ones."""
    if not extra:
        return tokenizer
    pipeline = json.loads(tokenizer.to_str())
    for token in pipeline["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in extra
    return type(tokenizer).from_str(json.dumps(pipeline))


def set_casing(tokenizer, config: dict) -> Any:
    """Return the tokenizer with the case and accents of tokenizer_config.json.

    BERT's class in transformers prefers that file to tokenizer.json, the generic classes do not.
    """
    from tokenizers import normalizers

    class_name = str(config.get("tokenizer_class") or "")
    if not isinstance(tokenizer.normalizer, normalizers.BertNormalizer) or class_name in (
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
    ):
        return tokenizer
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    pipeline = json.loads(tokenizer.to_str())
    changes = {}
    for key, name in names.items():
        value = config.get(key)
        if not isinstance(value, bool | None):
            raise UserError(f"{key} is {value!r:.60} in tokenizer_config.json; write true or false")
        # BERT's normalizer itself decides about accents if nobody does.
        if value is not None or (key == "strip_accents" and key in config):
            changes[name] = value
    pipeline["normalizer"] |= changes
    # A new object: the added tokens of the old one were normalized by the old rules.
    return type(tokenizer).from_str(json.dumps(pipeline))


def add_tokens(tokenizer, config: dict, source: str) -> None:
    """Add the tokens that the config files name and the vocabulary lacks, as transformers does."""
    from tokenizers import AddedToken

    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, dict) else extra
    contents = [token.get("content") if isinstance(token, dict) else token for token in extra]
    if not all(isinstance(token, str) and token for token in contents):
        raise UserError(
            f"the config of {source} has {extra!r:.60} as extra special tokens; write a list of "
            "texts"
        )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in contents]
    )


LOADERS = {
    "tokenizer.json": _read_tokenizer_json,
    "vocab.txt": _read_vocab_txt,
    "vocab.json": _read_bpe,
}
"""Reader of each file name, in the order of preference: (path, config) to a tokenizer."""


def known_files() -> str:
    """Return the known file names, as the end of an error message."""
    return ", ".join(LOADERS).replace("vocab.json", "vocab.json with merges.txt")
