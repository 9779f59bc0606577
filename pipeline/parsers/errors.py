"""The one reason for which a parser cannot be had or used."""


class ParserError(ValueError):
    """str(error) is one sentence for the user: what, expected and got, and the next step."""
