"""What can be wrong with data, in words for the user."""


class DataError(ValueError):
    """A data set that cannot be used as asked; the message says what to do."""


class BadExampleError(DataError):
    """One example is damaged; the message names its file and record, and the reason."""
