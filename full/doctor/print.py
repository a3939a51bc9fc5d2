"""Print an examination."""

import signal
import time
from collections.abc import Sequence

from full.doctor.judge import COLORS, NotReady, Section, diagnose, worst
from full.trainer.state import Trainer
from full.units import duration


def examine(trainer: Trainer) -> None:
    """Print what `diagnose` finds, and a conclusion.

    Raises:
        NotReady: something must be mended first.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # there is nothing to save: leave at once
        signal.signal(number, signal.SIG_DFL)
    printer = Printer(trainer.accelerator.is_main_process)
    printer.title(trainer)
    started, sections = time.perf_counter(), []
    try:
        for section in diagnose(trainer):
            sections.append(section)
            printer.section(len(sections), section)
    finally:
        trainer.close()
    printer.conclusion(sections, time.perf_counter() - started)
    if worst(section.verdict for section in sections) == "stop":
        raise NotReady("the set-up is not ready; what to mend is marked `stop` above.")


class Printer:
    """Prints on the main process, and nothing elsewhere."""

    def __init__(self, main: bool) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, quiet=not main)
        self.width = min(self.console.width, 100)

    def title(self, trainer: Trainer) -> None:
        """What is examined."""
        sizes = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
        parameters, trained = sum(n for n, _ in sizes), sum(n for n, wanted in sizes if wanted)
        adapters = f" ({trained / 1e6:.2f} M of them trained)" if trained < parameters else ""
        config, accelerator = trainer.config, trainer.accelerator
        self.console.print(
            f"\nexamining {config.model}, {parameters / 1e6:.2f} M parameters{adapters}, on {accelerator.num_processes} x "
            f"{accelerator.device.type}; objective {config.objective}, schedule {config.schedule}",
            markup=False,
        )

    def section(self, number: int, section: Section) -> None:
        """Its title and verdict, its facts in two columns, its remarks."""
        from rich.table import Table
        from rich.text import Text

        rule = "-" * (self.width - len(f"{number} {section.title}  {section.verdict}"))
        title = (f"\n{number} {section.title} ", "bold")
        self.console.print(Text.assemble(title, (rule, "dim"), " ", self._colored(section.verdict)))
        table = Table.grid(padding=(0, 1))
        table.add_column(width=21, no_wrap=True)
        table.add_column(width=self.width - 22, overflow="fold")
        for label, text in section.facts:
            # A model's text may hold anything; what is no character must not reach the terminal.
            clean = "".join(c if c.isprintable() or c == "\n" else "?" for c in text.expandtabs(4).rstrip())
            table.add_row(Text(f"  {label}", "dim"), Text(clean))
        for verdict, text in section.remarks:
            table.add_row(Text.assemble("  ", self._colored(verdict)), Text(text))
        self.console.print(table)

    def conclusion(self, sections: Sequence[Section], seconds: float) -> None:
        """Ready, ready with remarks, or what must be mended."""
        from rich.text import Text

        verdict = worst(section.verdict for section in sections)
        names = ", ".join(section.title for section in sections if section.verdict == verdict)
        said = {"ok": "ready", "look": f"ready, but look at: {names}", "stop": f"not ready, mend first: {names}"}[
            verdict
        ]
        self.console.print(Text.assemble("\n", self._colored(said, verdict)))
        self.console.print(f"examined in {duration(seconds)}; nothing was written, no weight was changed", style="dim")

    def _colored(self, text: str, verdict: str = "") -> tuple[str, str]:
        """A text in the colour of a verdict, by default its own."""
        return text, f"bold {COLORS[verdict or text]}"
