"""Whether who asks would rather have HTML than JSON, by its header Accept."""


def prefers_html(accept: str) -> bool:
    """`*/*` alone, or nothing, is no wish for a page: curl, probes and clients send it."""
    return _weight(accept, "text/html") > _weight(accept, "application/json")


def _weight(accept: str, wanted: str) -> float:
    """0: it is not named."""
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name == wanted:
            return next((_number(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
    return 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
