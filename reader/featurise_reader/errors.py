"""What goes wrong in reading features."""


class ReaderError(Exception):
    """Raised when features cannot be read as asked; says what to do."""


class NotFound(ReaderError, KeyError):
    """Raised when there is no image, version or object of that name."""

    def __str__(self) -> str:
        """The message as it is: KeyError would put it into quotes."""
        return str(self.args[0])
