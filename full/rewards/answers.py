"""The answer of a text: its last box, and the verdicts that need no algebra."""

import re

# Longer or deeper answers than any in MATH are refused: comparing them can only cost time.
MAX_ANSWER_CHARACTERS = 400


MAX_NESTING = 12


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete \boxed{...} (or \fbox{...}) of a text, braces matched; None if there is none."""
    for start in reversed([match.end() for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]):
        depth = 1
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            if depth == 0:
                return text[start:end].strip()
    bare = re.findall(r"\\boxed\s+([^\s${}\\]+)", text)  # "\boxed 5" occurs in MATH's own solutions
    return bare[-1].rstrip(".,") if bare else None


def _quick_verdict(given: str | None, gold: str | None) -> bool | None:
    """True or False where no algebra is needed; None where a worker must decide."""
    if given is None or gold is None or not given.strip():
        return False
    if given.strip() == gold.strip():
        return True
    if len(given) > MAX_ANSWER_CHARACTERS or _nesting(given) > MAX_NESTING:
        return False
    integers = [
        re.fullmatch(r"[+-]?\d{1,30}", text.replace(",", "").replace("$", "").strip()) for text in (given, gold)
    ]
    if all(integers):
        return int(integers[0][0]) == int(integers[1][0])
    return None


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest
