"""The one exception that a user's mistake becomes."""


class UserError(Exception):
    """A user's mistake, told in one sentence that names the thing, both values and the way out.

    Raised only where a value enters the program (readers, ``__post_init__``, ``build``) and caught only
    in ``cli.py``, which prints it without a traceback and exits with code 2.
    """
