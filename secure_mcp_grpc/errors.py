"""Errors that a person caused and can mend, as opposed to bugs and outages."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something the person who started this can put right.

    Its text is one line that names the thing and says what to do; programs
    print it to stderr and exit with code 2.
    """
