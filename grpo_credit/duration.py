"""A time in words."""


def duration(seconds: float) -> str:
    """Write a time as people say it, to two digits or the second.

    Example:
        >>> [duration(seconds) for seconds in (0.25, 7, 59.6, 125, 7260)]
        ['0.25 s', '7 s', '1 min 00 s', '2 min 05 s', '2 h 01 min']
    """
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
