"""Words that say little on their own and change much, such as "not": augmentation leaves them as they are."""

from __future__ import annotations

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

ENGLISH = """
    a about above after again against ain all am an and any are aren as at be because been before being below between
    both but by can couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn
    have haven having he her here hers herself him himself his i if in into is isn it its itself just ll m ma me mightn
    more most mustn my myself needn no nor not now o of off on once only or other our ours ourselves out over own re s
    same shan she should shouldn so some such t than that the their theirs them themselves then there these they this
    those through to too under until up ve very was wasn we were weren while will with won wouldn y you your yours
    yourself yourselves
"""
"""TinyBERT's StopWordsList (Jiao et al., 2020, data_augmentation.py): NLTK's English words without its question words.

Its contractions are left out: a vocabulary cuts them at the apostrophe, and their parts are in the list.
"""


def read_stop_words(path: str | None) -> frozenset[str]:
    """Read the words of a UTF-8 text file as lower case, or ``ENGLISH``; raises UserError for what is no such file."""
    try:
        text = gcs.local(path, bool).read_text(encoding="utf-8-sig") if path else ENGLISH
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path} cannot be read ({why}); give a text file of stop words") from error
    return frozenset(text.lower().split())
