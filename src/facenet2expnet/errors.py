"""The exceptions that a user is meant to read."""


class UserError(ValueError):
    """What the user gave can't be used; the message says what was expected, what came, where, and what to do.

    The command line prints the message and exits with 2, without a traceback.
    """


class StageStopped(UserError):
    """A stage can't go on: its loss is no number, or it learns nothing or has nothing to learn; with what to change."""
