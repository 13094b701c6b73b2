"""The console: what users see, and the one look of every progress bar. Light: imports neither torch nor mmengine."""
import threading

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

CONSOLE = Console(highlight=False)
STOP = threading.Event()  # set once the user asked to stop, for where a library swallows the exception


def stop(number, frame) -> None:
    """Signal handler: raise KeyboardInterrupt, and leave the wish where long loops see it after every step."""
    STOP.set()
    raise KeyboardInterrupt


def stop_if_asked() -> None:
    """Raise the KeyboardInterrupt that something swallowed: destructors, callbacks and bare excepts do."""
    if STOP.is_set():
        raise KeyboardInterrupt


def progress_bar(*more: ProgressColumn, disable: bool = False) -> Progress:
    """A bar with counts, time elapsed and ETA, and `more` columns at its end."""
    return Progress(TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                    TextColumn("eta"), TimeRemainingColumn(), *more, console=CONSOLE, disable=disable)


def log(text: str) -> None:
    """Print one line as it is: no markup, no wrapping."""
    CONSOLE.print(text, markup=False, soft_wrap=True)
