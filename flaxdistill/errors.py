"""The one exception that a user's mistake becomes, and the one of jax that is a user's to mend."""


class UserError(Exception):
    """A user's mistake, told in one sentence that names the thing, both values and the way out.

    Raised only where a value enters the program (readers, ``__post_init__``, ``build``) and caught only
    in ``cli.py``, which prints it without a traceback and exits with ``code``.
    """

    code = 2


class PeersLost(UserError):  # noqa: N818 - no mistake of the user's
    """Other processes of a run are gone, or were not met: the same command, started again, may well succeed."""

    code = 1


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error of jax says that a device's memory is full."""
    return any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory"))
