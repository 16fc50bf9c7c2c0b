"""The vocabulary: text to token ids and back, and the tokenizer files that Hugging Face reads."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.runtime.files import read_json

# The names of each special token in the order they are looked for: BERT's, then RoBERTa's.
SPECIAL_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
BERT_TOKENS = [names[0] for names in SPECIAL_NAMES.values()]
# What says where a tokenizer lay on someone's disk, or runs their code, has no place in an export.
SPARSEST = 100
"""Ids for every token that has one."""
LOCAL_KEYS = (
    "auto_map", "cache_dir", "is_local", "local_files_only", "merges_file", "name_or_path",
    "special_tokens_map_file", "tokenizer_file", "vocab_file", "_commit_hash",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """A tokenizer that neither truncates nor pads; two are the same iff their ``digest`` is."""

    tokenizer: Any  # tokenizers.Tokenizer
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    size: int  # rows of an embedding table: the largest id + 1
    special_ids: tuple[int, ...]  # sorted
    digest: str  # sha256 over the table of ids and tokens, and over how a sentence is cut
    config: dict  # tokenizer_config.json

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into token ids, int32 [n] each, without special tokens.

        A text that spells a special token gets its characters, never its id; only ``unk`` can occur.
        """
        # Set here and not once, because pickling (to a worker process) forgets it.
        self.tokenizer.encode_special_tokens = True
        # A unigram model holds "<s>" as an ordinary piece and would still find it.
        plain = np.arange(self.size, dtype=np.int32)
        plain[list(self.special_ids)] = self.unk
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [plain[np.array(encoding.ids, dtype=np.int32)] for encoding in encodings]

    def encode_places(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Do what ``encode`` does, and tell where each token stands: first character and the one after, int32 [n, 2]."""
        self.tokenizer.encode_special_tokens = True
        plain = np.arange(self.size, dtype=np.int32)
        plain[list(self.special_ids)] = self.unk
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (plain[np.array(e.ids, dtype=np.int32)], np.array(e.offsets, np.int32).reshape(-1, 2))
            for e in encodings
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Turn token ids into text; special tokens stay visible."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def continues(self) -> np.ndarray:
        """Mark the tokens that go on with a word, bool [V]; raises UserError where the tokenizer does not tell."""
        if type(self.tokenizer.model).__name__ != "WordPiece":
            raise UserError(
                f"task.whole_words needs a WordPiece vocabulary, whose ## tells where words go on, and this one is "
                f"{type(self.tokenizer.model).__name__}; set it to False"
            )
        prefix = self.tokenizer.model.continuing_subword_prefix
        tokens = (self.tokenizer.id_to_token(i) for i in range(self.size))
        return np.array([token is not None and token.startswith(prefix) for token in tokens])

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json (and vocab.txt for WordPiece) into a directory."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        text = self.tokenizer.to_str(pretty=True)
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        config = json.dumps(self.config, indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
        tokens = [self.tokenizer.id_to_token(i) for i in range(self.size)]
        # A line number is an id there, so a table with gaps cannot be written.
        if json.loads(text)["model"]["type"] == "WordPiece" and None not in tokens:
            (folder / "vocab.txt").write_text(
                "".join(f"{token}\n" for token in tokens), encoding="utf-8"
            )


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Read tokenizer.json, vocab.txt, or vocab.json with merges.txt: a directory, or one of these files.

    tokenizer_config.json and special_tokens_map.json beside it give names and casing. Raises
    UserError for missing or broken files and for a vocabulary without one of the five special tokens.
    """
    folder = os.path.dirname(path) if os.path.basename(path) in LOADERS else path
    gcs.local(folder, gcs.named("/*.json", "/*.txt"))  # what lies beside it too
    path = gcs_paths.here(path)
    folder = path if path.is_dir() else path.parent
    names = [path.name] if path.is_file() else list(LOADERS)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if not path.exists():
        raise UserError(
            f"Tokenizer {path} does not exist; give a directory or a file {_looked_for()}"
        )
    if found is None or found.name not in LOADERS:
        raise UserError(
            f"{path} holds no tokenizer: looked for {_looked_for()}; copy it from the model's directory"
        )
    config = _read_json(folder / "special_tokens_map.json") | _read_json(
        folder / "tokenizer_config.json"
    )
    return vocabulary_of(LOADERS[found.name](found, config), config, str(found))


def _looked_for() -> str:
    return ", ".join(LOADERS).replace("vocab.json", "vocab.json with merges.txt")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}); copy it again") from error


def _read_json(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _read_tokenizer_json(path: Path, config: dict):
    from tokenizers import Tokenizer

    read_json(path)  # for the line of a syntax error, which the Rust parser does not name
    try:
        return Tokenizer.from_str(_read_text(path))
    except Exception as error:  # the Rust side raises nothing narrower
        raise UserError(
            f"{path} is not a tokenizer that `tokenizers` can read ({error})"
        ) from error


def _read_vocab_txt(path: Path, config: dict):
    # Not splitlines(): some tokens are characters that it takes for line breaks.
    lines = _read_text(path).removesuffix("\n").split("\n")
    ids = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
    tokens = _special_tokens(ids, config, str(path))
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
            f"{path} needs merges.txt beside it, which does not exist; copy it from the model"
        )
    ids = read_json(path)
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < 2**32:
            raise UserError(
                f"{path} gives {token!r:.60} the id {i!r:.60}; an id is a whole number below 2^32"
            )
    tokens = _special_tokens(ids, config, str(path))
    try:
        model = models.BPE.from_file(str(path), str(merges))
    except Exception as error:  # the Rust side raises nothing narrower
        raise UserError(f"{path} and {merges.name} do not belong together ({error})") from error
    tokenizer = Tokenizer(model)
    prefix = config.get("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (tokens["sep"], ids[tokens["sep"]]),
        (tokens["cls"], ids[tokens["cls"]]),
        add_prefix_space=prefix,
    )
    # RoBERTa's mask takes the space before it, as its own tokenizer does.
    tokenizer.add_special_tokens([AddedToken(tokens["mask"], lstrip=True, special=True)])
    return tokenizer


LOADERS = {
    "tokenizer.json": _read_tokenizer_json,
    "vocab.txt": _read_vocab_txt,
    "vocab.json": _read_bpe,
}


def bert_normalizer(lowercase: bool, chinese: bool = True, strip_accents: bool | None = None):
    """Make BERT's normaliser."""
    from tokenizers import normalizers

    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )


def wordpiece_tokenizer(ids: dict[str, int], unk: str):
    """Make BERT's uncased tokenizer over a table of pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unk, max_input_chars_per_word=100))
    tokenizer.normalizer = bert_normalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _special_tokens(ids: dict[str, int], config: dict, where: str) -> dict[str, str]:
    """Find the text of each of the five special tokens: as configured, else as BERT or RoBERTa call it."""
    tokens = {}
    for role, names in SPECIAL_NAMES.items():
        configured = config.get(f"{role}_token")
        if isinstance(configured, dict):  # a serialised AddedToken
            configured = configured.get("content")
        if configured is not None and not isinstance(configured, str):
            raise UserError(
                f'{where} has {configured!r:.60} for "{role}_token" beside it; write a text'
            )
        wanted = [configured] if configured else list(names)
        found = next((name for name in wanted if name in ids), None)
        if found is None:
            raise UserError(
                f"{where} has no {role} token: looked for {' and '.join(wanted)} among {len(ids)} tokens; "
                f'add it to the vocabulary, or name it as "{role}_token" in tokenizer_config.json'
            )
        tokens[role] = found
    return tokens


def vocabulary_of(tokenizer, config: dict, where: str) -> Vocabulary:
    """Make a tokenizer a Vocabulary; ``where`` it came from is for the error if a special token is missing."""
    from tokenizers import AddedToken, processors

    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = _special_tokens(ids, config, where)
    size = max(ids.values()) + 1
    if size > SPARSEST * len(ids):  # an embedding table has a row for each, used or not
        raise UserError(
            f"{where} has {len(ids)} tokens and ids up to {size - 1}; number them without such gaps"
        )
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
    table = json.dumps([*sorted((i, token) for token, i in ids.items()), _probe(tokenizer)])
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return Vocabulary(
        tokenizer=tokenizer,
        **{role: ids[token] for role, token in tokens.items()},
        size=size,
        special_ids=tuple(sorted(special)),
        digest=hashlib.sha256(table.encode()).hexdigest(),
        config=_export_config(tokenizer, config, tokens),
    )


def _probe(tokenizer) -> list[int]:
    """Encode what tokenizers of one table differ in: casing, accents, Chinese characters, where words end."""
    text = "The Café's naïve tests: DON'T re-run 3.14% of un_tokenised 東京 x²!"
    return tokenizer.encode(text, add_special_tokens=False).ids


def _export_config(tokenizer, config: dict, tokens: dict[str, str]) -> dict:
    """Make the tokenizer_config.json that transformers 4 and 5 read alike."""
    pipeline = json.loads(tokenizer.to_str())
    kinds = [
        (pipeline[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")
    ]
    export = {"model_max_length": 512} | {k: v for k, v in config.items() if k not in LOCAL_KEYS}
    # transformers 4 does not know TokenizersBackend, and neither generic class says token_type_ids.
    if export.get("tokenizer_class") in (None, "TokenizersBackend", "PreTrainedTokenizerFast"):
        named: dict[tuple[str | None, ...], str] = {
            ("BertNormalizer", "BertPreTokenizer", "WordPiece"): "BertTokenizer",
            (None, "ByteLevel", "BPE"): "RobertaTokenizer",
        }
        export["tokenizer_class"] = named.get(tuple(kinds), "PreTrainedTokenizerFast")
    if kinds[0] == "BertNormalizer":  # transformers rebuilds the normaliser from these
        normalizer = pipeline["normalizer"]
        export["do_lower_case"] = normalizer["lowercase"]
        export["strip_accents"] = normalizer["strip_accents"]
        export["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    return export | {f"{role}_token": token for role, token in tokens.items()}
