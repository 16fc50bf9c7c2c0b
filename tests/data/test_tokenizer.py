"""The vocabulary: ids equal to those of Hugging Face, and files that it can load."""

import json
import pickle
import shutil

import numpy as np
import pytest
from helpers.paths import SHARED

from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.data.wordpiece import train_wordpiece
from flaxdistill.errors import UserError

needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no ../shared")
BERT = SHARED / "tokenizers" / "bert-base-uncased"
ROBERTA = SHARED / "tokenizers" / "roberta-base"

TEXTS = [
    "The quick brown fox jumps over the lazy dog; the dogs were not amused.",
    "Unbelievable! Café naïve résumé, 東京 and \t tabs\nand lines.",
    "A student learns what its teacher teaches: teaching, taught, teachers' teachings.",
    "antidisestablishmentarianism " + "x" * 150 + " 🤖 \x00 \x1c ok",
    "",
]
LITERAL = "a [MASK] b [SEP] c <mask> d </s> e [PAD]"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [
    "the",
    "##s",
    "dog",
    "un",
    "##able",
    "straße",
    "Dog",
    "[",
    "]",
    "pad",
    "a",
    "b",
    "c",
    "d",
    "e",
]


@pytest.fixture
def trained():
    return train_wordpiece(TEXTS * 3, 200)


@pytest.fixture
def vocab_txt(tmp_path):
    path = tmp_path / "model" / "vocab.txt"
    path.parent.mkdir()
    path.write_text("\n".join(SPECIALS + PIECES) + "\n", encoding="utf-8")
    return path


def lists(arrays):
    return [array.tolist() for array in arrays]


def pieces(vocabulary, text):
    return [vocabulary.tokenizer.id_to_token(int(i)) for i in vocabulary.encode([text])[0]]


# Encoding


def test_encode_gives_int32_without_special_tokens(trained):
    arrays = trained.encode(TEXTS)
    assert [array.dtype for array in arrays] == [np.int32] * len(TEXTS)
    assert arrays[-1].shape == (0,)
    assert trained.encode([]) == []
    assert set(np.concatenate(arrays)) & set(trained.special_ids) <= {trained.unk}
    assert trained.special_ids == (0, 1, 2, 3, 4)


def test_special_tokens_in_a_text_are_encoded_as_characters(trained, vocab_txt):
    from_file = load_vocabulary(vocab_txt)
    for vocabulary in (from_file, pickle.loads(pickle.dumps(from_file))):
        assert pieces(vocabulary, "a[PAD] b") == ["a", "[", "pad", "]", "b"]
    for vocabulary in (trained, pickle.loads(pickle.dumps(trained))):
        ids = vocabulary.encode([LITERAL])[0]
        assert not set(ids) & (set(vocabulary.special_ids) - {vocabulary.unk})


def test_special_tokens_that_are_ordinary_pieces_become_unk(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({t: i for i, t in enumerate([*SPECIALS, "a"])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.encode(["a [MASK] a"])[0].tolist() == [5, vocabulary.unk, 5]


def test_truncation_and_padding_are_switched_off(trained, tmp_path):
    trained.save(tmp_path)
    before = lists(trained.encode(TEXTS))
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    stored["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    stored["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    loaded = load_vocabulary(tmp_path)
    assert lists(loaded.encode(TEXTS)) == before
    loaded.save(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None


# Files


def test_vocab_txt_lowercases_unless_the_config_disables_it(vocab_txt):
    assert pieces(load_vocabulary(vocab_txt), "Dogs Unable") == ["dog", "##s", "un", "##able"]
    (vocab_txt.parent / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = load_vocabulary(vocab_txt.parent)
    assert pieces(cased, "Dogs unable") == ["Dog", "##s", "un", "##able"]
    assert cased.config["do_lower_case"] is False


@pytest.mark.parametrize("lowercase", [True, False])
def test_save_and_load_preserve_everything(vocab_txt, tmp_path, lowercase):
    (vocab_txt.parent / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": lowercase})
    )
    first = load_vocabulary(vocab_txt)
    first.save(tmp_path / "b")
    for path in (tmp_path / "b", tmp_path / "b" / "tokenizer.json", tmp_path / "b" / "vocab.txt"):
        second = load_vocabulary(path)
        assert (second.digest, second.size, second.special_ids) == (
            first.digest,
            first.size,
            first.special_ids,
        )
        assert (second.pad, second.unk, second.cls, second.sep, second.mask) == (0, 1, 2, 3, 4)
        assert lists(second.encode(["The Dogs", *TEXTS])) == lists(
            first.encode(["The Dogs", *TEXTS])
        )
        assert second.config == first.config
    assert first.decode(first.encode(["unable dogs"])[0]) == "unable dogs"


def test_saved_tokenizer_json_adds_cls_and_sep(vocab_txt, tmp_path):
    from tokenizers import Tokenizer

    load_vocabulary(vocab_txt).save(tmp_path / "b")
    encoding = Tokenizer.from_file(str(tmp_path / "b" / "tokenizer.json")).encode("the dog", "dogs")
    assert encoding.tokens == ["[CLS]", "the", "dog", "[SEP]", "dog", "##s", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 0, 1, 1, 1]


def test_a_table_with_gaps_keeps_its_size_and_writes_no_vocab_txt(vocab_txt, tmp_path):
    # An id is a line number, so a piece listed twice leaves one of its lines unused.
    vocab_txt.write_text("\n".join([*SPECIALS, "the", "the", "dog"]), encoding="utf-8")
    vocabulary = load_vocabulary(vocab_txt)
    assert vocabulary.size == 8
    vocabulary.save(tmp_path / "b")
    assert not (tmp_path / "b" / "vocab.txt").exists()
    assert load_vocabulary(tmp_path / "b").digest == vocabulary.digest


def test_digest_distinguishes_vocabularies(vocab_txt):
    first = load_vocabulary(vocab_txt).digest
    vocab_txt.write_text("\n".join([*SPECIALS, *reversed(PIECES)]), encoding="utf-8")
    assert load_vocabulary(vocab_txt).digest != first


def test_token_names_come_from_the_config(tmp_path):
    (tmp_path / "vocab.txt").write_text("PADDING\n<unk>\n<s>\n</s>\n<mask>\na\n")
    (tmp_path / "special_tokens_map.json").write_text(
        '{"pad_token": {"content": "PADDING", "lstrip": false}}'
    )
    vocabulary = load_vocabulary(tmp_path)
    assert (vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert vocabulary.config["pad_token"] == "PADDING"
    assert vocabulary.config["cls_token"] == "<s>"


def test_export_leaks_no_local_paths(vocab_txt, tmp_path):
    config = {
        "is_local": True,
        "local_files_only": True,
        "name_or_path": "/home/me",
        "model_max_length": 128,
    }
    (vocab_txt.parent / "tokenizer_config.json").write_text(json.dumps(config))
    load_vocabulary(vocab_txt).save(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "tokenizer_config.json").read_text()) == {
        "model_max_length": 128, "tokenizer_class": "BertTokenizer", "do_lower_case": True,
        "strip_accents": None, "tokenize_chinese_chars": True,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
        "sep_token": "[SEP]", "mask_token": "[MASK]",
    }  # fmt: skip


def test_errors_name_the_file(tmp_path):
    def error(path=tmp_path):
        with pytest.raises(UserError) as caught:
            load_vocabulary(path)
        return str(caught.value)

    assert "nowhere does not exist" in error(tmp_path / "nowhere")
    assert "looked for tokenizer.json, vocab.txt, vocab.json with merges.txt" in error()
    (tmp_path / "vocab.json").write_text('{"<s>": 0}')
    assert "vocab.json needs merges.txt in the same folder" in error()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    assert "vocab.txt has no mask token: looked for [MASK] and <mask> among 5 tokens" in error()
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff")
    assert "vocab.txt cannot be read as UTF-8 text" in error()
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0",\n"model": }')
    assert "tokenizer.json is not valid JSON (Expecting value: line 2" in error()
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    assert "tokenizer.json is not a tokenizer that `tokenizers` can read" in error()
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert "tokenizer_config.json is not valid JSON" in error()
    (tmp_path / "words.txt").write_text("a")
    assert "words.txt holds no tokenizer" in error(tmp_path / "words.txt")


# Against Hugging Face


@needs_shared
def test_tokenizer_json_and_vocab_txt_of_bert_agree(tmp_path):
    shutil.copy(BERT / "vocab.txt", tmp_path)
    a, b = load_vocabulary(BERT), load_vocabulary(tmp_path)
    assert (a.size, a.pad, a.unk, a.cls, a.sep, a.mask) == (30522, 0, 100, 101, 102, 103)
    assert a.special_ids == b.special_ids == (0, 100, 101, 102, 103)
    assert a.digest == b.digest
    assert lists(a.encode([*TEXTS, LITERAL])) == lists(b.encode([*TEXTS, LITERAL]))


@pytest.mark.hf
@needs_shared
def test_bert_ids_equal_those_of_transformers():
    from transformers import BertTokenizerFast

    reference = BertTokenizerFast.from_pretrained(BERT)
    expected = reference(TEXTS, add_special_tokens=False)["input_ids"]
    assert lists(load_vocabulary(BERT).encode(TEXTS)) == expected


@pytest.mark.hf
@needs_shared
def test_roberta_ids_equal_those_of_transformers(tmp_path):
    from transformers import AutoTokenizer, RobertaTokenizerFast

    reference = RobertaTokenizerFast.from_pretrained(ROBERTA)
    vocabulary = load_vocabulary(ROBERTA)
    assert (vocabulary.cls, vocabulary.pad, vocabulary.sep, vocabulary.mask) == (0, 1, 2, 50264)
    assert (
        lists(vocabulary.encode(TEXTS)) == reference(TEXTS, add_special_tokens=False)["input_ids"]
    )
    vocabulary.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == reference(TEXTS)["input_ids"]
    # The mask absorbs the space before it, as in the published tokenizer.json.
    a, b = lists(vocabulary.encode(["a", " b"]))
    assert loaded("a <mask> b")["input_ids"] == [0, *a, 50264, *b, 2]


@pytest.mark.hf
@pytest.mark.parametrize("lowercase", [True, False])
def test_saved_files_load_in_transformers(trained, vocab_txt, tmp_path, lowercase):
    from transformers import AutoTokenizer

    (vocab_txt.parent / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": lowercase})
    )
    for number, vocabulary in enumerate([trained, load_vocabulary(vocab_txt)]):
        vocabulary.save(tmp_path / str(number))
        loaded = AutoTokenizer.from_pretrained(tmp_path / str(number))
        texts = [*TEXTS, "The Dogs"]
        expected = [
            [vocabulary.cls, *ids, vocabulary.sep] for ids in lists(vocabulary.encode(texts))
        ]
        encoded = loaded(texts)
        assert encoded["input_ids"] == expected
        assert encoded["token_type_ids"] == [[0] * len(ids) for ids in expected]
        pair = loaded("the dog", "dogs")
        a, b = lists(vocabulary.encode(["the dog", "dogs"]))
        assert pair["input_ids"] == [vocabulary.cls, *a, vocabulary.sep, *b, vocabulary.sep]
        assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert (loaded.pad_token_id, loaded.mask_token_id) == (vocabulary.pad, vocabulary.mask)
        assert loaded.model_max_length == 512
        assert len(loaded) == vocabulary.size


@pytest.mark.hf
@pytest.mark.parametrize("template", ["bert", "roberta"])
def test_pairs_follow_the_template_of_the_tokenizer(vocab_txt, tmp_path, template):
    """RoBERTa writes two separators between the texts of a pair."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = load_vocabulary(vocab_txt)
    cls, sep = ("[CLS]", vocabulary.cls), ("[SEP]", vocabulary.sep)
    vocabulary.tokenizer.post_processor = (
        processors.BertProcessing(sep, cls)
        if template == "bert"
        else processors.RobertaProcessing(sep, cls, add_prefix_space=False)
    )
    vocabulary.save(tmp_path / template)
    own = load_vocabulary(tmp_path / template)
    assert own.separators == (1 if template == "bert" else 2)
    assert (own.digest == load_vocabulary(vocab_txt).digest) == (template == "bert")
    loaded = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / template / "tokenizer.json"))
    first, second = own.encode(["the dog", "un able dogs"])
    ids, start = own.join(first, second)
    assert ids.tolist() == loaded("the dog", "un able dogs")["input_ids"]
    assert len(ids) == len(first) + len(second) + own.special_count(pair=True)
    np.testing.assert_array_equal(ids[start : start + len(second)], second)
    single, start = own.join(first)
    assert single.tolist() == loaded("the dog")["input_ids"] and start == 0
    assert len(single) == len(first) + own.special_count(pair=False)
