"""Reproducible training of a WordPiece vocabulary."""

from collections import Counter
from collections.abc import Iterable, Iterator

from flaxdistill.data.tokenizer import Vocabulary, make_vocabulary
from flaxdistill.data.tokenizer_files import BERT_TOKENS, bert_normalizer, wordpiece_tokenizer
from flaxdistill.errors import UserError

ALPHABET_LIMIT = 1000
"""Characters of the alphabet, as in Hugging Face's BERT trainer; rarer ones become [UNK]."""

MIN_PAIR_COUNT = 2
"""Occurrences below which two pieces are not merged."""


def train_wordpiece(texts: Iterable[str], size: int) -> Vocabulary:
    """Train a BERT-uncased WordPiece vocabulary of at most ``size`` tokens.

    The same texts give the same vocabulary in any order, process or number of threads. A small
    corpus may give fewer tokens than ``size``. Raises UserError if ``size`` cannot hold the single
    characters.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = _count_words(texts)
    alphabet = _alphabet(words)
    words = Counter({word: count for word, count in words.items() if alphabet.issuperset(word)})
    # The Rust trainer numbers characters in the order of a hash map and breaks ties by number, so
    # two runs differ. Characters passed as "special tokens" are numbered in the order given here.
    continuing = {f"##{character}" for word in words for character in word[1:]}
    fixed = BERT_TOKENS + sorted(alphabet) + sorted(continuing)
    if not words:
        raise UserError(
            "The corpus to train a vocabulary on holds no word; give it documents with text"
        )
    if size < len(fixed):
        raise UserError(
            f"Vocabulary size {size} is too small: the special tokens and single characters of "
            f"this corpus are {len(fixed)}; raise the size or clean the corpus"
        )
    tokenizer = Tokenizer(models.WordPiece(unk_token=BERT_TOKENS[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=MIN_PAIR_COUNT, special_tokens=fixed, show_progress=False
    )
    tokenizer.train_from_iterator(_repeat(words), trainer)
    ids = tokenizer.get_vocab(with_added_tokens=False)
    return make_vocabulary(wordpiece_tokenizer(ids, BERT_TOKENS[1]), {}, "The trained vocabulary")


def _count_words(texts: Iterable[str]) -> Counter:
    """Count words after BERT's normalizer and pre-tokenizer, sorted."""
    from tokenizers import pre_tokenizers

    raw: Counter = Counter()
    for text in texts:
        raw.update(text.split())
    # Both work within white space, so each distinct piece needs them once: five times less work.
    normalize = bert_normalizer(lowercase=True).normalize_str
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words: Counter = Counter()
    for piece, count in raw.items():
        for word, _ in split(normalize(piece)):
            words[word] += count
    return Counter(dict(sorted(words.items())))


def _alphabet(words: Counter) -> set[str]:
    """Return the most frequent characters, at most ALPHABET_LIMIT."""
    counts: Counter = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return set(ranked[:ALPHABET_LIMIT])


def _repeat(words: dict[str, int]) -> Iterator[str]:
    """Yield every word as often as it was counted, up to 1000 per text."""
    for word, count in words.items():
        for start in range(0, count, 1000):
            yield " ".join([word] * min(1000, count - start))
