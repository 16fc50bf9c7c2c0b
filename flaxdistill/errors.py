"""Exceptions for users, and the detection of full device memory."""


class UserError(Exception):
    """A user's mistake, in one sentence that names the thing, both values and the way out.

    Raised only where a value enters the program (readers, ``__post_init__``, ``build``). The
    command line prints it without a traceback and exits with ``code``.
    """

    code = 2


class PeersLost(UserError):  # noqa: N818 - not a mistake of the user
    """Other processes of a run have died or cannot connect; the same command may well succeed."""

    code = 1


def out_of_memory(error: Exception) -> bool:
    """Return whether an error of JAX means that a device is out of memory."""
    return any(text in str(error) for text in ("RESOURCE_EXHAUSTED", "Out of memory"))
