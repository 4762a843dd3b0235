"""How far a child has come, told to the supervisor before model code runs.

The marks go into the job's own request file, whose descriptor is closed with the last of them: model code can neither read nor write it.
"""

import os
from types import CodeType
from typing import NoReturn

REQUEST_FD = 4
MARK_BYTES = 4096
"""Room for marks at the start of the request file; the request follows."""
READY = b"S"
"""The child is locked down."""
RUNNING = b"R"
"""The source was compiled; from here on model code runs."""
REFUSED = b"C"
"""The source does not compile; the reason follows."""
BROKEN = b"F"
"""The child could not be locked down; the reason follows."""

MAX_SOURCE_BYTES = 1024 * 1024
SCRIPT_NAME = "main.py"


def mark(stage: bytes, reason: str = "") -> None:
    os.pwrite(REQUEST_FD, stage + reason.encode(errors="replace")[: MARK_BYTES - 2] + b"\0", 0)


def close_marks() -> None:
    """After this, the child can say nothing more about itself."""
    os.close(REQUEST_FD)


def compile_source(source: str | CodeType, name: str = SCRIPT_NAME) -> CodeType:
    """Compile model source, where it is not, and note that it will run now; an entry module calls this once, before anything of the
    model runs.

    A source that does not compile ends the process here.
    """
    code = compiled(source, name) if isinstance(source, str) else source
    mark(RUNNING)
    close_marks()
    return code


def compiled(source: str, name: str) -> CodeType:
    """A source that does not compile ends the process here."""
    try:
        return _compile(source, name)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError, SystemError) as error:
        refuse(f"{type(error).__name__}: {error}")


def refuse(reason: str) -> NoReturn:
    """End the process: the source cannot be run. Only before `compile_source` returned."""
    mark(REFUSED, reason)
    os._exit(1)


def _compile(source: str, name: str) -> CodeType:
    size = len(source.encode(errors="surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        raise ValueError(f"the source has {size} bytes; at most {MAX_SOURCE_BYTES} are compiled")
    return compile(source, name, "exec", dont_inherit=True)
