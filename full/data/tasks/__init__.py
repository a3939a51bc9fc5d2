"""Generated tasks, one file each. To add one, add a file here that defines `TASK`; nothing else names it."""

import pkgutil
from importlib import import_module

from full.data.tasks.task import Task

TASKS: dict[str, Task] = {
    info.name: import_module(f"{__name__}.{info.name}").TASK
    for info in pkgutil.iter_modules(__path__)
    if info.name != "task"
}
