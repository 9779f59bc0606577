"""The one reason for which a view may refuse a sample."""


class UnreadableImageError(ValueError):
    """The source is not a whole image of allowed size; str(error) is the reason that is recorded."""
