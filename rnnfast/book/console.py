"""Printing texts on consoles that cannot show all of their characters."""

from __future__ import annotations

import sys


def show(text: str) -> None:
    """Print a line. A character that the console cannot encode is shown as a backslash escape.

    Such a console is one whose encoding is not UTF-8, as Windows often has and PYTHONIOENCODING can
    choose: a trained network's text must not end the program there.

    Errors: OSError, which names the standard output, where it cannot be written to.
    """
    try:
        print(text, flush=True)
    except UnicodeEncodeError:  # nothing has been written: the whole line is encoded first
        print(escaped(text, sys.stdout.encoding), flush=True)
    except OSError as error:
        reason = f"the standard output could not be written ({error.strerror or error})"
        raise OSError(error.errno, reason) from error


def escaped(text: str, encoding: str) -> str:
    """The text with a backslash escape for every character that the encoding does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)
