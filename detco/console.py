"""The console: what users see, and the one look of every progress bar. Light: imports neither torch nor mmengine."""
from rich.console import Console
from rich.progress import (
    BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn,
)

CONSOLE = Console(highlight=False)


def progress_bar(*more: ProgressColumn, disable: bool = False) -> Progress:
    """A bar with counts, time elapsed and ETA, and `more` columns at its end."""
    return Progress(TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                    TextColumn("eta"), TimeRemainingColumn(), *more, console=CONSOLE, disable=disable)


def say(text: str) -> None:
    """Print one line as it is: no markup, no wrapping."""
    CONSOLE.print(text, markup=False, soft_wrap=True)
