"""The vocabulary: text to token ids and back."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.tokenizer_files import (
    LOADERS,
    add_numbered_tokens,
    add_tokens,
    find_special_tokens,
    known_files,
    make_encoder,
    set_casing,
)
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.runtime.files import read_json

MAX_IDS_PER_TOKEN = 100
"""A table whose largest id exceeds its number of tokens by this factor is rejected."""

LOCAL_KEYS = (
    "auto_map", "cache_dir", "is_local", "local_files_only", "merges_file", "name_or_path",
    "special_tokens_map_file", "tokenizer_file", "vocab_file", "_commit_hash",
)  # fmt: skip
"""Keys of tokenizer_config.json that hold local paths or code; they are not exported."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """A tokenizer that neither truncates nor pads.

    Two vocabularies are the same if and only if their ``digest`` is the same.
    """

    tokenizer: Any  # tokenizers.Tokenizer
    encoder: Any  # the same for ``encode``: special tokens that a model adds are ordinary tokens
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    size: int  # rows of an embedding table: the largest id + 1
    special_ids: tuple[int, ...]  # sorted
    digest: str  # sha256 of the table of ids and tokens, and of the tokens of a test sentence
    config: dict  # tokenizer_config.json
    separators: int = 1  # sep tokens between the two texts of a pair; 2 for RoBERTa

    def join(self, first: np.ndarray, second: np.ndarray | None = None) -> tuple[np.ndarray, int]:
        """Add the special tokens to one or two encoded texts: int32 [n].

        Also returns the position of the first token of the second text; 0 without one.
        """
        parts: list[Any] = [[self.cls], first, [self.sep]]
        if second is None:
            return np.concatenate(parts).astype(np.int32), 0
        parts += [[self.sep] * (self.separators - 1), second, [self.sep]]
        return np.concatenate(parts).astype(np.int32), len(first) + 1 + self.separators

    def special_count(self, *, pair: bool) -> int:
        """Return the number of special tokens that ``join`` adds."""
        return 2 + self.separators if pair else 2

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts to token ids, int32 [n] each, without special tokens.

        A text that spells one of the five special tokens is encoded as its characters, never as the
        special id; ``unk`` is the only one of their ids that can occur. Tokens that a model adds,
        such as [E1], are encoded as one id, as transformers does.
        """
        # Set in every call, because pickling (to a worker process) loses it.
        self.encoder.encode_special_tokens = True
        replaced = self._replace_special()
        encodings = self.encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [replaced[np.array(encoding.ids, dtype=np.int32)] for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode as ``encode`` does, with each token's characters: (start, end), int32 [n, 2]."""
        self.encoder.encode_special_tokens = True
        replaced = self._replace_special()
        encodings = self.encoder.encode_batch(list(texts), add_special_tokens=False)
        return [
            (
                replaced[np.array(encoding.ids, dtype=np.int32)],
                np.array(encoding.offsets, np.int32).reshape(-1, 2),
            )
            for encoding in encodings
        ]

    def _replace_special(self) -> np.ndarray:
        # A unigram model has "<s>" as an ordinary piece and would still produce it.
        ids = np.arange(self.size, dtype=np.int32)
        ids[[self.pad, self.unk, self.cls, self.sep, self.mask]] = self.unk
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decode token ids to text; special tokens stay visible."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def continues(self) -> np.ndarray:
        """Mark the tokens that continue a word, bool [V]; raise UserError unless WordPiece."""
        if type(self.tokenizer.model).__name__ != "WordPiece":
            raise UserError(
                "task.whole_words needs a WordPiece vocabulary, whose ## marks the pieces that "
                f"continue a word, but this one is {type(self.tokenizer.model).__name__}; "
                "set it to False"
            )
        prefix = self.tokenizer.model.continuing_subword_prefix
        tokens = (self.tokenizer.id_to_token(i) for i in range(self.size))
        return np.array([token is not None and token.startswith(prefix) for token in tokens])

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        text = self.tokenizer.to_str(pretty=True)
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        config = json.dumps(self.config, indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
        tokens = [self.tokenizer.id_to_token(i) for i in range(self.size)]
        # In vocab.txt the line number is the id, so a table with gaps cannot be written.
        if json.loads(text)["model"]["type"] == "WordPiece" and None not in tokens:
            (folder / "vocab.txt").write_text(
                "".join(f"{token}\n" for token in tokens), encoding="utf-8"
            )


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Load tokenizer.json, vocab.txt, or vocab.json with merges.txt.

    ``path`` is a directory or one of these files. tokenizer_config.json and
    special_tokens_map.json in the same directory give names and casing. Raises UserError for
    missing or broken files, and if one of the five special tokens is missing.
    """
    folder = os.path.dirname(path) if os.path.basename(path) in LOADERS else path
    gcs.local_copy(folder, gcs.name_filter("/*.json", "/*.txt"))  # the config files too
    path = gcs_paths.local_path(path)
    folder = path if path.is_dir() else path.parent
    names = [path.name] if path.is_file() else list(LOADERS)
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if not path.exists():
        raise UserError(
            f"Tokenizer {path} does not exist; give a directory or a file {known_files()}"
        )
    if file is None or file.name not in LOADERS:
        raise UserError(
            f"{path} holds no tokenizer: looked for {known_files()}; "
            "copy it from the model's directory"
        )
    configs = (folder / "special_tokens_map.json", folder / "tokenizer_config.json")
    config: dict = {}
    for config_file in configs:
        config |= read_json(config_file) if config_file.is_file() else {}
    tokenizer = LOADERS[file.name](file, config)
    if file.name != "tokenizer.json" and (folder / "added_tokens.json").is_file():
        add_numbered_tokens(tokenizer, folder / "added_tokens.json")
    return make_vocabulary(tokenizer, config, str(file))


def make_vocabulary(tokenizer, config: dict, source: str) -> Vocabulary:
    """Create a Vocabulary from a tokenizer; error messages name its ``source``."""
    from tokenizers import AddedToken, processors

    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = find_special_tokens(ids, config, source)
    size = max(ids.values()) + 1
    if size > MAX_IDS_PER_TOKEN * len(ids):  # an embedding table has a row for every id
        raise UserError(
            f"{source} has {len(ids)} tokens and ids up to {size - 1}; "
            "number them without such gaps"
        )
    tokenizer = set_casing(tokenizer, config)
    add_tokens(tokenizer, config, source)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    size = max(ids.values()) + 1
    added = {
        token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
    }
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in tokens.values() if t not in added]
    )
    if tokenizer.post_processor is None:
        cls, sep = tokens["cls"], tokens["sep"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
        )
    separators = _separators(tokenizer, ids[tokens["sep"]])
    extra = sorted(added - set(tokens.values()))
    # Empty for most tokenizers.
    template = [item for item in (extra, separators) if item not in ([], 1)]
    table = json.dumps(
        [*sorted((i, token) for token, i in ids.items()), _probe(tokenizer), *template]
    )
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return Vocabulary(
        tokenizer=tokenizer,
        encoder=make_encoder(tokenizer, set(extra)),
        **{role: ids[token] for role, token in tokens.items()},
        size=size,
        special_ids=tuple(sorted(special)),
        digest=hashlib.sha256(table.encode()).hexdigest(),
        config=_export_config(tokenizer, config, tokens, separators),
        separators=separators,
    )


def _probe(tokenizer) -> list[int]:
    # Tokenizers with the same table differ in casing, accents, Chinese characters or word splits.
    text = "The Café's naïve tests: DON'T re-run 3.14% of un_tokenised 東京 x²!"
    return tokenizer.encode(text, add_special_tokens=False).ids


def _separators(tokenizer, sep: int) -> int:
    """Return how many ``sep`` the tokenizer's own template has between two texts, 1 or 2."""
    encoding = tokenizer.encode("a", "a", add_special_tokens=True)
    second = encoding.sequence_ids.index(1) if 1 in encoding.sequence_ids else 0
    return 2 if encoding.ids[max(second - 2, 0) : second] == [sep, sep] else 1


def _export_config(tokenizer, config: dict, tokens: dict[str, str], separators: int) -> dict:
    """Create a tokenizer_config.json that transformers 4 and 5 read alike."""
    pipeline = json.loads(tokenizer.to_str())
    types = [
        (pipeline[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")
    ]
    export = {"model_max_length": 512} | {k: v for k, v in config.items() if k not in LOCAL_KEYS}
    # transformers 4 does not know TokenizersBackend, and neither generic class returns
    # token_type_ids.
    if export.get("tokenizer_class") in (None, "TokenizersBackend", "PreTrainedTokenizerFast"):
        # These classes write as many separators as they always do, whatever the template is.
        classes: dict[tuple[Any, ...], str] = {
            ("BertNormalizer", "BertPreTokenizer", "WordPiece", 1): "BertTokenizer",
            (None, "ByteLevel", "BPE", 2): "RobertaTokenizer",
        }
        export["tokenizer_class"] = classes.get((*types, separators), "PreTrainedTokenizerFast")
    if export["tokenizer_class"] == "RobertaTokenizer":
        export["add_prefix_space"] = pipeline["pre_tokenizer"]["add_prefix_space"]
    if types[0] == "BertNormalizer":  # transformers rebuilds the normalizer from these
        normalizer = pipeline["normalizer"]
        export["do_lower_case"] = normalizer["lowercase"]
        export["strip_accents"] = normalizer["strip_accents"]
        export["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    return export | {f"{role}_token": token for role, token in tokens.items()}
