"""Bytes and lengths of time, written for people; one form for the page, the console and the doctor."""


def size(num_bytes: float) -> str:
    """Bytes in the unit that fits, three digits: 1.23 GB, 666 MB, 12 kB."""
    unit, scale = next((pair for pair in (("GB", 1e9), ("MB", 1e6)) if num_bytes >= pair[1]), ("kB", 1e3))
    return f"{num_bytes / scale:.3g} {unit}"


def duration(seconds: float) -> str:
    """Two units at most: 2 days 3 h, 1 h 20 min, 3 min 5 s, 12 s; below ten seconds two digits: 0.53 s."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} {'day' if days == 1 else 'days'} {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
