"""One algebraic expression as LaTeX that leaves math-verify's parser no choice."""

import re

from full.rewards.forms.records import Unreadable
from full.rewards.forms.tokens import Token, Tokens, closing, exact, is_sign, join, next_solid, split_commas, strip
from full.rewards.forms.words import (
    BIG_OPERATORS,
    FUNCTIONS,
    GREEK,
    GREEK_CONSTANTS,
    MULTI_ARGUMENT,
    NOT_UNITS,
    SHORT_WORDS,
    TRIGONOMETRIC,
    UNITS,
)


def write_expression(tokens: Tokens) -> tuple[str, set[str]]:
    writer = _Writer(strip(tokens))
    return writer.latex(), writer.symbols


class _Writer:
    """Writes tokens as LaTeX that leaves math-verify's parser no choice, or raises Unreadable."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.symbols: set[str] = set()
        # A degree sign belongs to the number where an angle is meant; elsewhere it is a unit.
        self.angles = has_angles(tokens)

    def latex(self) -> str:
        solid = [t for t in self.tokens if t.kind != "space"]
        mixed = re.fullmatch(r"([+-]?)(\d+)\s+(\d+)\s*/\s*(\d+)", "".join(t.text for t in self.tokens))
        if mixed and not any(t.kind == "space" and not t.text for t in self.tokens):
            sign, whole, upper, lower = mixed.groups()  # 3 1/2
            return f"{sign}({whole}+{_proper(upper, lower)})"
        if not solid:
            raise Unreadable
        text, rest = self.sequence(self.tokens, top=True), None
        assert rest is None
        return text

    def sequence(self, tokens: Tokens, *, top: bool = False, relations: bool = False) -> str:
        """Write a sequence of tokens; an operand never follows a number without an operator between them."""
        out: list[str] = []
        index, operand = 0, False  # operand: whether a value has just ended
        divided = False  # whether that value stands after a slash
        while index < len(tokens):
            token = tokens[index]
            name = token.text[1:] if token.kind == "command" else ""
            if token.kind == "space":
                index += 1
                continue
            begins = (
                token.kind in ("number", "word")
                or is_sign(token, "(", "[", "|")
                or name not in ("", "cdot", "times", "div")
            )
            if begins and operand and divided:
                raise Unreadable  # 1/2x is x/2 to some and 1/(2x) to others
            if begins and operand and (is_sign(token, "(", "[") or name in ("frac", "binom")):
                out.append("\\cdot")  # the parser takes 2 (3) for a mixed number, 5
            if token.marked and not (
                (token.kind == "word" and len(token.text) == 1) or token.kind in ("number", "mark", "command")
            ):
                raise Unreadable
            if token.kind == "number":
                if operand:
                    raise Unreadable  # "5 0", "x2": two values side by side
                text, index = self.number(tokens, index)
                out.append(text)
                operand = True
            elif token.kind == "word":
                text, index = self.word(tokens, index)
                out.append(text)
                operand = True
            elif is_sign(token, "+", "-"):
                if index + 1 >= len(tokens):
                    raise Unreadable
                out.append(token.text)
                index, operand, divided = index + 1, False, False
            elif is_sign(token, "*", "\\cdot", "\\times", "/", "\\div"):
                if not operand:
                    raise Unreadable
                double = is_sign(token, "*") and index + 1 < len(tokens) and is_sign(tokens[index + 1], "*")
                if double:
                    text, index = self.script(tokens, index + 2)
                    out.append(f"^{{{text}}}")
                    continue
                divided = is_sign(token, "/", "\\div")
                out.append("/" if divided else "\\cdot")
                index, operand = index + 1, False
            elif is_sign(token, "^"):
                if not operand:
                    raise Unreadable
                after = next_solid(tokens, index + 1)
                if after is not None and is_sign(tokens[after], "\\circ"):
                    if self.angles:
                        out.append("\\cdot \\frac{\\pi}{180}")
                        self._wrap_angle(out)
                    index = after + 1
                    continue
                text, index = self.script(tokens, index + 1)
                out.append(f"^{{{text}}}")
            elif is_sign(token, "(", "[", "{"):
                end = closing(tokens, index)
                if end < 0:
                    raise Unreadable
                inner = tokens[index + 1 : end]
                if token.text == "{":  # no sign of its own: what is in it stands where it stands
                    tokens = tokens[:index] + inner + tokens[end + 1 :]
                    continue
                if {"(": ")", "[": "]"}[token.text] != tokens[end].text:
                    raise Unreadable
                out.append(f"({self.sequence(inner)})")
                index, operand = end + 1, True
            elif is_sign(token, "|"):
                end = next((i for i in range(index + 1, len(tokens)) if is_sign(tokens[i], "|")), -1)
                if end < 0:
                    raise Unreadable
                out.append(f"|{self.sequence(tokens[index + 1 : end])}|")
                index, operand = end + 1, True
            elif is_sign(token, "!"):
                if not operand:
                    raise Unreadable
                out.append("!")
                index += 1
            elif relations and (is_sign(token, "=") or name in ("to", "infty", "rightarrow")):
                out.append("\\to" if name == "rightarrow" else token.text)
                index, operand = index + 1, False
            elif name:
                text, index, operand = self.command(tokens, index)
                out.append(text)
            else:
                raise Unreadable
        if not out:
            raise Unreadable
        return " ".join(out)

    def _wrap_angle(self, out: list[str]) -> None:
        """The value before a degree sign times pi/180, as one factor."""
        if len(out) < 2:
            raise Unreadable
        factor, value = out.pop(), out.pop()
        out.append(f"({value} {factor})")

    def number(self, tokens: Tokens, index: int) -> tuple[str, int]:
        text = tokens[index].text
        after = next_solid(tokens, index + 1)
        if text.isdigit():
            if after is not None and is_sign(tokens[after], "\\frac"):
                upper, place = self.argument(tokens, after + 1)
                lower, end = self.argument(tokens, place)
                if upper.isdigit() and lower.isdigit():
                    return f"({text}+{_proper(upper, lower)})", end  # 2\frac{1}{2}
            return str(int(text)), index + 1
        value = exact(text)
        if after is not None and is_sign(tokens[after], "\\frac"):
            upper, place = self.argument(tokens, after + 1)
            lower, _ = self.argument(tokens, place)
            if upper.isdigit() and lower.isdigit():
                raise Unreadable
        return f"(\\frac{{{value.numerator}}}{{{value.denominator}}})", index + 1

    def word(self, tokens: Tokens, index: int) -> tuple[str, int]:
        word = tokens[index].text
        if word == "pi":
            return "\\pi", index + 1
        if word in ("infinity", "inf"):
            return "\\infty", index + 1
        if word == "sqrt":
            after = next_solid(tokens, index + 1)
            if after is None or not is_sign(tokens[after], "("):
                raise Unreadable
            end = closing(tokens, after)
            return f"\\sqrt{{{self.sequence(tokens[after + 1 : end])}}}", end + 1
        if word in FUNCTIONS:
            return self.function(word, tokens, index + 1)
        if len(word) > 1 and (len(word) > 4 or word.lower() in UNITS or word in SHORT_WORDS or word in NOT_UNITS):
            raise Unreadable
        letters = []
        for place, letter in enumerate(word):
            subscript, end = "", index + 1
            if place == len(word) - 1:
                subscript, end = self.subscript(tokens, index + 1)
            letters.append(self.symbol(letter, subscript))
        return " ".join(letters), end

    def symbol(self, letter: str, subscript: str = "") -> str:
        if letter == "I":  # the imaginary unit to the parser
            letter, subscript = "J", "I" + subscript
        elif letter == "d" and not subscript:  # half a differential
            subscript = "d"
        if letter in ("i", "e") and not subscript:
            return letter
        name = (
            letter if not subscript else f"{letter}_{subscript}" if len(subscript) == 1 else f"{letter}_{{{subscript}}}"
        )
        self.symbols.add(name)
        return letter if not subscript else f"{letter}_{{{subscript}}}"

    def subscript(self, tokens: Tokens, index: int) -> tuple[str, int]:
        after = next_solid(tokens, index)
        if after is None or not is_sign(tokens[after], "_"):
            return "", index
        place = next_solid(tokens, after + 1)
        if place is None:
            raise Unreadable
        if is_sign(tokens[place], "{"):
            end = closing(tokens, place)
            text, end = join(tokens[place + 1 : end]), end + 1
        else:
            text, end = tokens[place].text, place + 1
        if not re.fullmatch(r"[a-zA-Z0-9]{1,6}", text):
            raise Unreadable
        return text, end

    def function(self, name: str, tokens: Tokens, index: int) -> tuple[str, int]:
        r"""A function with its exponent, base and argument; the parser would read \sin x \cdot y as sin(xy)."""
        exponent = base = ""
        while True:
            after = next_solid(tokens, index)
            if after is None:
                raise Unreadable
            if is_sign(tokens[after], "^"):
                exponent, index = self.script(tokens, after + 1)
            elif is_sign(tokens[after], "_") and name == "log":
                base, index = self.script(tokens, after + 1)
                base = f"_{{{base}}}"
            else:
                break
        if is_sign(tokens[after], "(", "[", "{", "|"):
            end = closing(tokens, after)
            if is_sign(tokens[after], "|"):
                end = next((i for i in range(after + 1, len(tokens)) if is_sign(tokens[i], "|")), -1)
            if end < 0:
                raise Unreadable
            inner = tokens[after : end + 1] if is_sign(tokens[after], "|") else tokens[after + 1 : end]
            end += 1
        else:
            end = after
            while end < len(tokens) and not self._ends_argument(tokens[end], tokens[after:end]):
                if is_sign(tokens[end], "^", "_") or is_sign(tokens[end], "\\frac", "\\sqrt", "\\binom"):
                    _, end = self._skip(tokens, end)
                else:
                    end += 1
            inner = tokens[after:end]
            if end < len(tokens) and is_sign(tokens[end], "(", "[", "|", "!"):
                raise Unreadable  # \sin 2(x+1): where the argument ends cannot be told
        text = f"\\{name}"
        if exponent.replace(" ", "") == "-1":
            return f"({text}^{{-1}}{base} ({self.sequence(inner)}))", end
        value = f"({text}{base} ({self.sequence(inner)}))"
        return (f"({value}^{{{exponent}}})" if exponent else value), end

    def _ends_argument(self, token: Token, before: Tokens) -> bool:
        name = token.text.removeprefix("\\")
        if token.kind == "space" or token.kind == "number" or is_sign(token, "^", "_"):
            return False
        if token.kind == "word":
            return name in FUNCTIONS
        return not (token.kind == "command" and (name in GREEK or name in ("pi", "frac", "sqrt", "binom", "circ")))

    def _skip(self, tokens: Tokens, index: int) -> tuple[str, int]:
        """Read an exponent, a subscript, a fraction or a root, for where it ends."""
        if is_sign(tokens[index], "^", "_"):
            after = next_solid(tokens, index + 1)
            if after is not None and is_sign(tokens[after], "\\circ"):
                return "", after + 1
            return self.script(tokens, index + 1)
        text, end, _ = self.command(tokens, index)
        return text, end

    def command(self, tokens: Tokens, index: int) -> tuple[str, int, bool]:
        name = tokens[index].text[1:]
        if name == "frac":
            upper, place = self.argument(tokens, index + 1)
            lower, end = self.argument(tokens, place)
            return f"\\frac{{{upper}}}{{{lower}}}", end, True
        if name == "binom":
            upper, place = self.argument(tokens, index + 1)
            lower, end = self.argument(tokens, place)
            return f"\\binom{{{upper}}}{{{lower}}}", end, True
        if name == "sqrt":
            after = next_solid(tokens, index + 1)
            root = ""
            place = index + 1
            if after is not None and is_sign(tokens[after], "["):
                end = closing(tokens, after)
                root = self.sequence(tokens[after + 1 : end])
                place = end + 1
            value, end = self.argument(tokens, place)
            return f"\\sqrt{f'[{root}]' if root else ''}{{{value}}}", end, True
        if name in ("pi", "infty"):
            return f"\\{name}", index + 1, True
        if name in GREEK:
            subscript, end = self.subscript(tokens, index + 1)
            letter = f"\\{name}"
            if name in GREEK_CONSTANTS:
                subscript, letter = name + subscript, "J"
            key = name if letter != "J" else "J"
            self.symbols.add(
                f"{key}_{{{subscript}}}" if len(subscript) > 1 else f"{key}_{subscript}" if subscript else key
            )
            return (f"{letter}_{{{subscript}}}" if subscript else letter), end, True
        if name in FUNCTIONS:
            text, end = self.function(name, tokens, index + 1)
            return text, end, True
        if name in ("lfloor", "lceil"):
            end = closing(tokens, index)
            if end < 0 or tokens[end].text != {"lfloor": "\\rfloor", "lceil": "\\rceil"}[name]:
                raise Unreadable
            return f"\\{name} {self.sequence(tokens[index + 1 : end])} \\r{name[1:]}", end + 1, True
        if name in MULTI_ARGUMENT:
            after = next_solid(tokens, index + 1)
            if after is None or not is_sign(tokens[after], "(", "\\{"):
                raise Unreadable
            end = closing(tokens, after)
            arguments = [self.sequence(part) for part in split_commas(tokens[after + 1 : end])]
            return f"\\{name}({','.join(arguments)})", end + 1, True
        if name in BIG_OPERATORS:
            text, place = f"\\{name}", index + 1
            while True:
                after = next_solid(tokens, place)
                if after is None or not is_sign(tokens[after], "^", "_"):
                    break
                mark = tokens[after].text
                limit, place = self.script(tokens, after + 1, relations=True)
                text += f"{mark}{{{limit}}}"
            return text, place, False
        raise Unreadable

    def argument(self, tokens: Tokens, index: int) -> tuple[str, int]:
        r"""A command's argument: a group, or one digit, letter or command: \frac12 is a half."""
        place = next_solid(tokens, index)
        if place is None:
            raise Unreadable
        token = tokens[place]
        if is_sign(token, "{"):
            end = closing(tokens, place)
            if end < 0:
                raise Unreadable
            return self.sequence(tokens[place + 1 : end]), end + 1
        if token.kind in ("number", "word") and len(token.text) > 1 and "." not in token.text:
            # Split the token in place: the rest of it follows.
            tokens[place : place + 1] = [Token(token.kind, token.text[0]), Token(token.kind, token.text[1:])]
            token = tokens[place]
        if token.kind in ("number", "word"):
            return self.sequence([token]), place + 1
        if token.kind == "command":
            text, end, _ = self.command(tokens, place)
            return text, end
        if is_sign(token, "("):  # sqrt(2) written as \sqrt(2)
            end = closing(tokens, place)
            return self.sequence(tokens[place + 1 : end]), end + 1
        raise Unreadable

    def script(self, tokens: Tokens, index: int, *, relations: bool = False) -> tuple[str, int]:
        """An exponent or a limit: a group, a whole number (x^10), a letter or a command."""
        place = next_solid(tokens, index)
        if place is None:
            raise Unreadable
        token = tokens[place]
        if is_sign(token, "{"):
            end = closing(tokens, place)
            if end < 0:
                raise Unreadable
            return self.sequence(tokens[place + 1 : end], relations=relations), end + 1
        if is_sign(token, "-") and place + 1 < len(tokens) and tokens[place + 1].kind == "number":
            return f"-{self.sequence([tokens[place + 1]])}", place + 2
        if token.kind == "number":
            return self.sequence([token]), place + 1
        return self.argument(tokens, place)


def has_angles(tokens: Tokens) -> bool:
    """Whether degrees are angles here and no unit: there is a trigonometric function."""
    return any(t.kind in ("command", "word") and t.text.removeprefix("\\") in TRIGONOMETRIC for t in tokens)


def _proper(upper: str, lower: str) -> str:
    """The fraction of a mixed number; with 5/3 it would not be one, and could be meant as a product."""
    if not 0 < int(upper) < int(lower):
        raise Unreadable
    return f"\\frac{{{int(upper)}}}{{{int(lower)}}}"
