"""The reasons for which a parser cannot be had or used."""


class ParserError(ValueError):
    """str(error) is one sentence for the user: what, expected and got, and the next step."""


class UnnamedParserError(ValueError):
    """A plan's parser that only its owner can name: a file, or a folder of maps."""
