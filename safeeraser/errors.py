"""How a command of this project fails: bad input is one clear line and exit code 2."""

import errno
import functools
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class BadInput(Exception):
    """Something the user gave cannot be used. The message names the file, the record and the key."""

    def __init__(self, message: str) -> None:
        # What a process that loads data raises, torch raises anew with that process's traceback before its own words.
        super().__init__(message.rpartition(f"{__name__}.{BadInput.__name__}: ")[2].rstrip())


class Interrupted(KeyboardInterrupt):
    """A signal has ended a command, which has kept what resumes it: the message says how."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number


def note(text: str) -> None:
    """Print what must be known though nothing has failed, on stderr."""
    print(f"note: {text}", file=sys.stderr)


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name: the nearest known one, and all of them."""
    known = sorted(known)
    plain = {each.lower().replace("+", ""): each for each in known}  # PO+PD, as tables have it, is popd
    close = get_close_matches(name.lower().replace("+", ""), plain, n=1, cutoff=0.5)
    hint = f"did you mean '{plain[close[0]]}'? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Wrap a command's main function: `BadInput`, or too long a path, prints one line and exits 2, Ctrl-C exits 130."""

    @functools.wraps(main)
    def run(*args, **kwargs) -> None:
        try:
            code = main(*args, **kwargs)
        except BadInput as error:
            sys.exit(_fail(str(error), 2))
        except OSError as error:
            # Wherever a path is first looked at: it would be much to ask that each of those places thinks of it.
            if error.errno != errno.ENAMETOOLONG:
                raise
            sys.exit(_fail(f"{error.filename}: {error.strerror}", 2))
        except Interrupted as error:
            sys.exit(_fail(str(error), error.code))
        except KeyboardInterrupt:
            sys.exit(_fail("interrupted; what was finished is kept", 130))
        sys.exit(code or 0)

    return run


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
