"""How commands of this project fail: bad input prints one clear line and exits with code 2."""

import errno
import functools
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

# The packages that the extra `train` installs, by import name. Scoring and the report need none of them.
TRAINING = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "hydra", "omegaconf", "psutil")


class BadInput(Exception):
    """Something the user gave cannot be used. The message names the file, the record and the key."""

    def __init__(self, message: str) -> None:
        # torch raises an error of a data-loading process again, with that process's traceback before the message.
        super().__init__(message.rpartition(f"{__name__}.{BadInput.__name__}: ")[2].rstrip())


class Interrupted(KeyboardInterrupt):
    """A signal has ended a command. The command has kept what it needs to resume, and the message says how."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number


def note(text: str) -> None:
    """Print on stderr what the user must know although nothing has failed."""
    print(f"note: {text}", file=sys.stderr)


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name: the nearest known name, and all known names."""
    known = sorted(known)
    plain = {each.lower().replace("+", ""): each for each in known}  # tables write popd as PO+PD
    close = get_close_matches(name.lower().replace("+", ""), plain, n=1, cutoff=0.5)
    hint = f"did you mean '{plain[close[0]]}'? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Wrap a command's main function: unusable input prints one line and exits with 2; Ctrl-C exits with 130.

    Such input is a `BadInput`, a path that is too long, or a missing package of the extra `train`. `main` itself must
    import what needs such a package.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> None:
        """Run the command, and raise `SystemExit` with its exit code; an error in the code is raised unchanged."""
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
            # A path may be opened first in many places, and it would be much to ask that each checks its length.
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
    """The name of the running command, as its user knows it."""
    module = sys.modules["__main__"].__spec__  # set under `python -m`, else None
    return f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
