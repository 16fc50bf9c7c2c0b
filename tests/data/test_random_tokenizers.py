"""Our ids equal those of transformers, for random tokenizers of every kind and random texts."""

import json

import numpy as np
import pytest

from flaxdistill.data.tokenizer import load_vocabulary

pytestmark = pytest.mark.hf

ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
EXTRA = ["[E1]", "[E2]", "<tag>", "[NEW LINE]"]
LETTERS = "abcdeéßÄİ東京 \t1.,-'’😀"
NUMBER = 200


def random_words(rng, number):
    size = len(LETTERS)
    return [
        "".join(LETTERS[i] for i in rng.integers(0, size, rng.integers(1, 6)))
        for _ in range(number)
    ]


def random_texts(rng, extra):
    texts = []
    for _ in range(8):
        words = random_words(rng, int(rng.integers(0, 8)))
        words += (
            [str(token) for token in rng.choice(extra, int(rng.integers(0, 3)))] if extra else []
        )
        rng.shuffle(words)
        texts.append(("", " ")[int(rng.integers(2))].join(words))
    return texts


def normalizer(rng, kind):
    from tokenizers import normalizers

    if kind == "WordPiece":
        strip = (None, True, False)[rng.integers(3)]
        lowercase, chinese = (bool(rng.integers(2)) for _ in range(2))
        return normalizers.BertNormalizer(True, chinese, strip, lowercase)
    choices = [None, normalizers.Lowercase(), normalizers.NFKC()]
    return choices[rng.integers(3)]


def random_tokenizer(rng, kind):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    pieces = sorted({piece for word in random_words(rng, 40) for piece in word.split()} - {""})
    if kind == "WordPiece":
        characters = sorted({c for piece in pieces for c in piece})
        table = [*ROLES, *characters, *(f"##{c}" for c in characters), *pieces]
        ids = {token: n for n, token in enumerate(dict.fromkeys(table))}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif kind == "BPE":
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(rng.integers(2)))
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=ROLES,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator([" ".join(pieces)], trainer)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        scores = [(token, 0.0) for token in ROLES]
        scores += [
            (piece, -float(rng.uniform(1, 9)))
            for piece in dict.fromkeys([*LETTERS.replace(" ", "▁"), *pieces])
        ]
        tokenizer = Tokenizer(models.Unigram(scores, unk_id=1))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.normalizer = normalizer(rng, kind) or tokenizer.normalizer
    tokenizer.add_special_tokens(ROLES)
    roles = {token: tokenizer.token_to_id(token) for token in ROLES}
    bert = processors.BertProcessing(("[SEP]", roles["[SEP]"]), ("[CLS]", roles["[CLS]"]))
    roberta = processors.RobertaProcessing(
        ("[SEP]", roles["[SEP]"]), ("[CLS]", roles["[CLS]"]), add_prefix_space=False
    )
    tokenizer.post_processor = roberta if rng.integers(2) else bert
    return tokenizer


def load_separators(tokenizer):
    return tokenizer.encode("a", "a").tokens.count("[SEP]") - 1


def write(rng, kind, folder):
    """Write a random tokenizer with extra tokens; return the tokens that texts may use."""
    tokenizer = random_tokenizer(rng, kind)
    extra = [str(token) for token in rng.permutation(EXTRA)[: rng.integers(0, len(EXTRA) + 1)]]
    config = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    if rng.integers(2):
        tokenizer.add_special_tokens(extra)
    else:
        tokenizer.add_tokens(extra)
    if extra and rng.integers(2):
        config["extra_special_tokens"] = extra
    if rng.integers(2):
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=6)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if kind == "WordPiece" and load_separators(tokenizer) == 1 and rng.integers(2):
        config["tokenizer_class"] = "BertTokenizer"
        config["do_lower_case"] = bool(rng.integers(2))
        config["strip_accents"] = (None, True, False)[rng.integers(3)]
        config["tokenize_chinese_chars"] = bool(rng.integers(2))
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return extra


def assert_equal(vocabulary, loaded, texts):
    expected = loaded(texts, add_special_tokens=False)["input_ids"]
    actual = [ids.tolist() for ids in vocabulary.encode(texts)]
    for text, ours, theirs in zip(texts, actual, expected, strict=True):
        assert ours == theirs, text
    # transformers takes an empty second text for none.
    texts = [text for text in texts if text.strip()][:2]
    first, second = vocabulary.encode(texts)
    pair = loaded(*texts)["input_ids"]
    assert vocabulary.join(first, second)[0].tolist() == pair


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_ids_equal_those_of_transformers(tmp_path, kind):
    from transformers import AutoTokenizer

    for seed in range(NUMBER):
        rng = np.random.default_rng([seed, len(kind)])
        folder = tmp_path / str(seed)
        extra = write(rng, kind, folder)
        texts = random_texts(rng, extra)
        vocabulary = load_vocabulary(folder)
        loaded = AutoTokenizer.from_pretrained(folder)
        try:
            assert_equal(vocabulary, loaded, texts)
            vocabulary.save(folder / "saved")
            saved = load_vocabulary(folder / "saved")
            assert saved.digest == vocabulary.digest
            assert_equal(saved, AutoTokenizer.from_pretrained(folder / "saved"), texts)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
