# tests/unit/framing.py: feeds a parser in every possible way
"""Shared code of the parser tests. `framer()` makes a new Framer of either protocol."""


def outcome_with(framer, pieces):
    """The messages in these pieces, and the error after them, or None."""
    fed = framer()
    found = []
    try:
        for piece in pieces:
            found += fed.feed(piece)
        # An error after messages in the last piece is raised by this call.
        found += fed.feed(b"")
    except ValueError as error:
        return found, str(error)
    return found, None


def cuts(data, most=300):
    """The ways to cut `data`: in two at every position, and into single bytes. If it is long, only
    some positions and larger pieces are used."""
    places = range(1, len(data))
    if len(data) > most:
        places = [*range(1, 40), *range(40, len(data), len(data) // 20), len(data) - 1]
    for place in places:
        yield [data[:place], data[place:]]
    step = 1 if len(data) <= most else 499
    yield [data[at : at + step] for at in range(0, len(data), step)]


def check_with(framer, data, messages, error=None):
    for pieces in [[data], *cuts(data)]:
        assert outcome_with(framer, pieces) == (messages, error), pieces


def name(data):
    return repr(data[:40])
