"""The error that is the user's to mend: a module without torch."""


class CreditError(ValueError):
    """A strategy cannot be found, built or used as asked, or a file is not what it should be."""
