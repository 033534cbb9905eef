"""How a command of this project fails: bad input is one clear line and exit code 2."""

import errno
import functools
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

# What the extra `train` installs, by the names that are imported. Scoring and the report need none of it.
TRAINING = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "hydra", "omegaconf", "psutil")


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
    """Wrap a command's main function: what cannot be used prints one line and exits 2, Ctrl-C exits 130.

    That is `BadInput`, too long a path, and a package of the extra `train` that is not installed. `main` itself imports
    what needs such a package.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> None:
        """Run the command, and raise `SystemExit` with its exit code; a fault of the code is raised as it is."""
        try:
            code = main(*args, **kwargs)
        except BadInput as error:
            sys.exit(_fail(str(error), 2))
        except ModuleNotFoundError as error:
            lacking = [name for name in TRAINING if find_spec(name) is None]
            if (error.name or "").partition(".")[0] not in lacking:
                raise
            needed = f"{_called()} needs {lacking[0]}. Install it with pip install -e '.[train]'"
            sys.exit(_fail(needed, 2))
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


def _called() -> str:
    """The command that runs, as its user names it."""
    module = sys.modules["__main__"].__spec__  # of `python -m`, else None
    return f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
