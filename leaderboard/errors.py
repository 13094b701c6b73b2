"""What is wrong with a record or a board."""


class RecordError(ValueError):
    """One line for the user: which file or row, which field, what to do."""
