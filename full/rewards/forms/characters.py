# ruff: noqa: RUF001
"""One alphabet: Unicode, Markdown and LaTeX's many names for one thing become plain LaTeX without a look."""

import re

_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("×✕⨯", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t\r\n", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("’‘′ʹ", "'"),
    **dict.fromkeys("“”″", '"'),
    "÷": r"\div ",
    "∕": "/",
    "⁄": "/",
    "／": "/",
    "＋": "+",
    "＝": "=",
    "（": "(",
    "）": ")",
    "［": "[",
    "］": "]",
    "｛": r"\{",
    "｝": r"\}",
    "，": ",",
    "、": ",",
    "；": ";",
    "：": ":",
    "。": ".",
    "．": ".",
    "％": "%",
    "＜": "<",
    "＞": ">",
    "π": r"\pi ",
    "∞": r"\infty ",
    "√": r"\sqrt ",
    "∛": r"\sqrt[3] ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "⩽": r"\le ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R} ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "∠": r"\angle ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "∧": r"\land ",
    "∨": r"\lor ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "δ": r"\delta ",
    "θ": r"\theta ",
    "λ": r"\lambda ",
    "μ": r"\mu ",
    "φ": r"\phi ",
    "ω": r"\omega ",
    "σ": r"\sigma ",
    **{chr(0xFF10 + i): str(i) for i in range(10)},
    **{
        character: f" \\frac{{{a}}}{{{b}}}"
        for character, a, b in [
            ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5),
            ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8),
        ]
    },
}  # fmt: skip

_TRANSLATION = str.maketrans(_CHARACTERS)

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")

_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

CURRENCY = "€£¥₹¢₩₽"

# Inside a number: between groups of three digits. A comma that was written as a thousands separator.
THOUSANDS_COMMA = "\x1f"

# The ends of what stood in \text{}.
TEXT, END_TEXT = "\x02", "\x03"

_TEXT_COMMANDS = frozenset(
    "text textbf textit textrm textsf texttt textnormal textup textsc emph mbox hbox mathrm".split()  # noqa: SIM905
)
_PLAIN_COMMANDS = frozenset(
    "mathbf mathit mathsf mathtt mathnormal bm boldsymbol pmb underline boxed fbox ensuremath mathop".split()  # noqa: SIM905
)
_SIZES = (
    r"displaystyle|textstyle|scriptstyle|scriptscriptstyle|limits|nolimits|tiny|small|normalsize|large|Large|LARGE|huge|Huge"
    r"|bf|rm|it|sf|tt|bfseries|itshape|centering|boldmath"
)

_SPACES = re.compile(
    r"(?<!\\)\\(?:[,:;>\s]|(?:quad|qquad|enspace|enskip|thinspace|medspace|thickspace|space|nobreak|nobreakspace)(?![a-zA-Z]))|~"
)

_RENAMED = {
    **dict.fromkeys(["dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"], "frac"),
    **dict.fromkeys(["dbinom", "tbinom"], "binom"),
    **dict.fromkeys(["leq", "leqslant", "leqq"], "le"),
    **dict.fromkeys(["geq", "geqslant", "geqq"], "ge"),
    **dict.fromkeys(["neq"], "ne"),
    **dict.fromkeys(["lvert", "rvert", "vert", "mid"], "|"),
    **dict.fromkeys(["lbrace"], "{"),
    **dict.fromkeys(["rbrace"], "}"),
    **dict.fromkeys(["ast"], "cdot"),
    **dict.fromkeys(["varnothing"], "emptyset"),
    **dict.fromkeys(["thickapprox", "simeq"], "approx"),
    **dict.fromkeys(["wedge"], "land"),
    **dict.fromkeys(["vee"], "lor"),
    **dict.fromkeys(["backslash"], "setminus"),
    "bar": "overline",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "infin": "infty",
}

_STYLE = re.compile(rf"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![a-zA-Z])\.?|\\(?:{_SIZES})(?![a-zA-Z])")

_MARKDOWN = re.compile(r"(\*\*\*|\*\*|\*|__|`)(?=\S)(.*\S)\1", re.DOTALL)


def clean(text: str) -> str:
    """One alphabet: characters, spaces, styles and synonyms of LaTeX."""
    text = text.strip()
    for _ in range(3):
        wrapped = _MARKDOWN.fullmatch(text)
        if wrapped is None or wrapped[1] in wrapped[2]:
            break
        text = wrapped[2].strip()
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    text = text.translate(_TRANSLATION)
    if "matrix" not in text and "array" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # a backslash too many
    text = text.replace("\\$", " \x04 ").replace("$", " ")
    text = re.sub(r"\\[()\[\]](?![a-zA-Z])", " ", text) if re.match(r"\s*\\[(\[]", text) else text
    # A comma in braces or with a negative space is a thousands separator in LaTeX.
    text = re.sub(r"(?:\\text\s*)?\{\s*,\s*\}|,\s*\\!\s*", THOUSANDS_COMMA, text)
    text = text.replace("\\!", "").replace("\\/", "")
    text = re.sub(r"(?<!\\)\\$", "", text)  # "\ " at the end, stripped
    text = _STYLE.sub("", text)
    text = _SPACES.sub(" ", text)
    text = re.sub(r"\\(?:hspace|vspace|hskip|phantom|vphantom|hphantom)\*?\s*\{[^{}]*\}", " ", text)
    text = re.sub(r"\\(?:text)?color\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}", "", text)
    text = re.sub(r"\\mathbb\s*\{?\s*R\s*\}?", r"\\reals ", text)
    text = re.sub(r"\\(?:degree|textdegree|deg)(?![a-zA-Z])|\^\s*\{\s*\\circ\s*\}|\^\s*\{\s*o\s*\}", r"^\\circ ", text)
    text = re.sub(r"\\operatorname\*?\s*\{\s*([a-zA-Z]+)\s*\}", r"\\\1 ", text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda m: _renamed(m[1]), text)
    return _mark_text(text)


def _renamed(name: str) -> str:
    new = _RENAMED.get(name, name)
    return "|" if new == "|" else "\\" + new


def _mark_text(text: str) -> str:
    r"""Replace \text{...} by its content between marks, and groups that change only the look by plain groups."""
    out: list[str] = []
    ends: list[str] = []  # what each open brace becomes when it closes
    position = 0
    for match in re.finditer(r"\\([a-zA-Z]+)\s*\{|\\.|[{}]", text, re.DOTALL):
        if match.start() < position:
            continue
        out.append(text[position : match.start()])
        position = match.end()
        token, name = match[0], match[1]
        if name in _TEXT_COMMANDS:
            out.append(TEXT)
            ends.append(END_TEXT)
        elif name in _PLAIN_COMMANDS:
            out.append("{")
            ends.append("}")
        elif name is not None:
            out.append(f"\\{name}{{")
            ends.append("}")
        elif token == "{":
            out.append("{")
            ends.append("}")
        elif token == "}":
            out.append(ends.pop() if ends else "}")
        else:
            out.append(token)
    out.append(text[position:])
    return "".join(out) + "".join(reversed(ends))
