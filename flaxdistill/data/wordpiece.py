"""Training a WordPiece vocabulary that comes out the same every time."""

from collections import Counter
from collections.abc import Iterable, Iterator

from flaxdistill.data.tokenizer import (
    BERT_TOKENS,
    Vocabulary,
    bert_normalizer,
    vocabulary_of,
    wordpiece_tokenizer,
)
from flaxdistill.errors import UserError

ALPHABET_LIMIT = 1000  # as in Hugging Face's own BERT trainer; rarer characters become [UNK]
RAREST_PAIR = 2  # occurrences below which two pieces are not joined


def train_wordpiece(texts: Iterable[str], size: int) -> Vocabulary:
    """Learn a BERT-uncased WordPiece vocabulary of at most ``size`` tokens from texts.

    The same texts give the same vocabulary in any order, process or number of threads. A small corpus
    may give fewer tokens than ``size``. Raises UserError if ``size`` cannot hold the single characters.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = _count_words(texts)
    alphabet = _alphabet(words)
    words = Counter({word: count for word, count in words.items() if alphabet.issuperset(word)})
    # The Rust trainer numbers characters in the order of a hash map and breaks ties by number, so two
    # runs differ. Characters that arrive as "special tokens" are numbered in the order given here.
    continuing = {f"##{character}" for word in words for character in word[1:]}
    fixed = BERT_TOKENS + sorted(alphabet) + sorted(continuing)
    if not words:
        raise UserError(
            "The corpus to train a vocabulary on holds no word; give it documents with text"
        )
    if size < len(fixed):
        raise UserError(
            f"Vocabulary size {size} is too small: the special tokens and single characters of this corpus "
            f"are {len(fixed)}; raise the size or clean the corpus"
        )
    trained = Tokenizer(models.WordPiece(unk_token=BERT_TOKENS[1]))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=RAREST_PAIR, special_tokens=fixed, show_progress=False
    )
    trained.train_from_iterator(_repeated(words), trainer)
    ids = trained.get_vocab(with_added_tokens=False)
    return vocabulary_of(wordpiece_tokenizer(ids, BERT_TOKENS[1]), {}, "The trained vocabulary")


def _count_words(texts: Iterable[str]) -> Counter:
    """Count words after BERT's normaliser and pre-tokeniser; sorted."""
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
    characters: Counter = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    return set(
        sorted(characters, key=lambda character: (-characters[character], character))[
            :ALPHABET_LIMIT
        ]
    )


def _repeated(words: dict[str, int]) -> Iterator[str]:
    for word, count in words.items():
        for start in range(0, count, 1000):
            yield " ".join([word] * min(1000, count - start))
