"""The one exception for mistakes a user can mend; the command line prints its sentence and exits with 2."""

__all__ = ["PosterionError"]


class PosterionError(Exception):
    """A user's mistake, in one sentence: the file or value, what was expected, how to mend it."""
