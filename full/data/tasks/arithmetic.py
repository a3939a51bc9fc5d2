"""Additions of two numbers."""

from full.data.tasks.task import Task


def arithmetic_rows(digits: int) -> list[dict[str, str]]:
    """All additions of two numbers with so many digits, in the MATH schema: 8,100 for two digits."""
    numbers = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    return [
        {
            "problem": f"Compute ${a}+{b}$.",
            "level": f"Level {digits}",
            "type": "Arithmetic",
            "solution": f"\\boxed{{{a + b}}}",
        }
        for a in numbers
        for b in numbers
    ]


TASK = Task(rows=lambda: arithmetic_rows(2), help="Additions of two two-digit numbers, 8,100 problems.")
