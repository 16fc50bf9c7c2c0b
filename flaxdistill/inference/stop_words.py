"""Stop words such as "not", which data augmentation does not replace."""

from __future__ import annotations

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

ENGLISH = """
    a about above after again against ain all am an and any are aren as at be because been before
    being below between both but by can couldn d did didn do does doesn doing don down during each
    few for from further had hadn has hasn have haven having he her here hers herself him himself
    his i if in into is isn it its itself just ll m ma me mightn more most mustn my myself needn no
    nor not now o of off on once only or other our ours ourselves out over own re s same shan she
    should shouldn so some such t than that the their theirs them themselves then there these they
    this those through to too under until up ve very was wasn we were weren while will with won
    wouldn y you your yours yourself yourselves
"""
"""StopWordsList of TinyBERT (Jiao et al., 2020, data_augmentation.py).

These are NLTK's English words without question words. Contractions are left out: a vocabulary
splits them at the apostrophe, and their parts are in the list.
"""


def read_stop_words(path: str | None) -> frozenset[str]:
    """Return the words of a UTF-8 text file in lower case, by default ``ENGLISH``.

    Raises UserError if the file cannot be read or is not UTF-8.
    """
    try:
        text = gcs.local_copy(path, bool).read_text(encoding="utf-8-sig") if path else ENGLISH
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"{path} cannot be read ({reason}); give a text file of stop words"
        ) from error
    return frozenset(text.lower().split())
