"""Questions: predict and commit before the result is shown, and the self-test at the end of a lesson."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
from matplotlib.figure import Figure
from matplotlib.text import Text

from apo_edu import palette

from .controls import as_control
from .pictures import as_png, fold_out, folded_words, require_words, widget_view


class Predict(ipywidgets.VBox):
    """A question to commit to before the result is shown: predict, commit, run, compare.

    With choices (text: why it is right or wrong), or with a number to set on a slider:

        Predict("Which KL covers both modes?",
                {"KL(q || p)": "Right: it is infinite where q > 0 and p = 0.",
                 "KL(p || q)": "This one pays only where p has mass, so it may drop a mode."},
                answer="KL(q || p)", reveal=lambda committed: draw(committed))

        Predict("At which alpha does the fit first lock onto a mode?", (0.0, 1.0, 0.05), answer=0.55, tolerance=0.1,
                label="alpha", explain={"low": "...", "right": "...", "high": "..."}, reveal=draw)

    In Python: set `choice.value`, call `commit()`; then `committed`, `correct`, `text` and `picture` are set. Where
    there are no widgets it is a question in HTML with a fold-out answer, and the picture for the right answer in it.

    Args:
        question: plain text.
        choices: a dict of at least 2 choices, in order, each with its explanation; or (low, high, step) of a slider.
        answer: one of the choices; or the number.
        tolerance: how far a number may be off and still count as right.
        label, explain: for a number only: the slider's label; what to say for "low", "right" and "high" answers.
        reveal: from the committed answer to a figure (or PNG bytes) with that answer drawn into it; None for none.
        alt: what the revealed picture shows.
        name: what the question is called where answers are kept, such as "01.coins".
        kept: called with the question after an answer was committed, to keep it; None to keep nothing.

    Raises:
        ValueError: on an answer that is no choice or out of range, and on missing explanations.
    """

    def __init__(
        self,
        question: str,
        choices: Mapping[str, str] | tuple[float, float, float],
        *,
        answer: Any,
        tolerance: float = 0.0,
        label: str = "your answer",
        explain: Mapping[str, str] | None = None,
        reveal: Callable[[Any], Figure | bytes] | None = None,
        alt: str = "The result, with your answer drawn in.",
        name: str = "",
        kept: "Callable[[Predict], None] | None" = None,
    ):
        require_words(question=question, alt=alt)
        self.question, self.answer, self.alt, self.name = question, answer, alt, name
        self._tolerance, self._reveal, self._kept = tolerance, reveal, kept
        self.committed: Any = None
        self.correct: bool | None = None
        self.text, self.picture = "", b""
        wide = {"width": "720px", "max_width": "100%"}
        if isinstance(choices, Mapping):
            if len(choices) < 2 or answer not in choices or not all(why.strip() for why in choices.values()):
                raise ValueError(
                    f"choices are {list(choices)} with answer {answer!r}; expected at least 2 choices, each with an "
                    "explanation, the answer among them. Pass {choice: why it is right or wrong, ...}."
                )
            self._why = dict(choices)
            self.choice = ipywidgets.RadioButtons(options=list(choices), value=None, layout={"width": "max-content"})
        else:
            self._why = dict(explain or {})
            if {"low", "right", "high"} - self._why.keys():
                raise ValueError(
                    f"explain has {sorted(self._why)}; expected 'low', 'right' and 'high'. Say why each is so."
                )
            low, high, step = choices
            if not low <= answer <= high or tolerance < 0:
                raise ValueError(
                    f"answer is {answer} with tolerance {tolerance}; expected {low} to {high} and a tolerance >= 0. "
                    "Widen the slider."
                )
            self.choice = as_control("choices", (label, low, high, step, low))
        self._numeric = not isinstance(choices, Mapping)
        asked = ipywidgets.HTMLMath(f"<strong>Predict.</strong> {html.escape(question)}", layout=wide)
        self.button = ipywidgets.Button(description="Commit", tooltip="Commit to this answer, then see the result")
        self.button.on_click(lambda _: self.commit())
        self._said = ipywidgets.HTMLMath(layout=wide)
        self._image = ipywidgets.Image(format="png", layout={"display": "none"})
        self._words = ipywidgets.HTML(folded_words(alt), layout={"display": "none"})
        # Long choices wrap instead of being cut off.
        wrap = ipywidgets.HTML(
            "<style>.apo-predict .widget-radio-box {height: auto; max-width: 720px}"
            " .apo-predict .widget-radio-box label {height: auto; white-space: normal; line-height: 1.4; margin: 3px 0}"
            " .apo-predict .widget-html-content, .apo-predict .widget-htmlmath-content {line-height: 1.45}</style>",
            layout={"display": "none"},
        )
        super().__init__([wrap, asked, self.choice, self.button, self._said, self._image, self._words])
        self.add_class("apo-predict")

    def commit(self) -> None:
        """Commit to the present choice: it can no longer be changed, and the result is shown."""
        if self.choice.value is None:
            self._said.value = '<div role="alert">Choose an answer first.</div>'
            return
        self.committed = self.choice.value
        self.choice.disabled = self.button.disabled = True
        if self._numeric:
            off = self.committed - self.answer
            self.correct = abs(off) <= self._tolerance + 1e-9
            why = [self._why["right" if self.correct else "low" if off < 0 else "high"]]
            answer = f"{self.answer:g}"
        else:
            self.correct = self.committed == self.answer
            why, answer = [self._why[self.committed]], self.answer
        verdict = "Right." if self.correct else f"Not so: the answer is {answer}."
        if not self.correct:
            why.append(self._why["right" if self._numeric else self.answer])
        said = f"{self.committed:g}" if self._numeric else self.committed
        self.text = " ".join([f"You said: {said}.", verdict, *why])
        color = palette.GREEN if self.correct else palette.WARNING
        parts = "".join(f"<p>{html.escape(part)}</p>" for part in why)
        mark = "\u2713" if self.correct else "\u2717"
        others = ""
        if not self._numeric:
            rest = [choice for choice in self._why if choice not in (self.committed, self.answer)]
            items = "".join(f"<li>{html.escape(c)}: {html.escape(self._why[c])}</li>" for c in rest)
            others = f"<details><summary>The other choices</summary><ul>{items}</ul></details>" if rest else ""
        self._said.value = (
            f'<div role="alert" style="border-left: 4px solid {color}; padding-left: 12px">'
            f"<p><strong>{mark} {html.escape(verdict)}</strong></p>{parts}{others}</div>"
        )
        if self._reveal is not None:
            self.picture, width = as_png(self._reveal(self.committed))
            self._image.value = self.picture
            self._image.layout = {"width": f"{width}px", "max_width": "100%"}
            self._words.layout = {}
        if self._kept is not None:
            self._kept(self)

    def _repr_mimebundle_(self, **kwargs):
        return {"text/html": self._as_html(), "text/plain": self._as_text()} | widget_view(self), {}

    def _as_text(self) -> str:
        return f"Predict. {self.question}\n" + "\n".join(self._asked())

    def _asked(self) -> list[str]:
        if self._numeric:
            return [f"Choose {self.choice.description} between {self.choice.min:g} and {self.choice.max:g}."]
        return list(self._why)

    def _as_html(self) -> str:
        """The question for a saved notebook or a page; its data attributes let a page's script ask it without a kernel."""
        if self._numeric:
            facts = {"answer": self.answer, "tolerance": self._tolerance, "label": self.choice.description}
            facts |= {"low": self.choice.min, "high": self.choice.max, "step": self.choice.step}
            told = [("right", f"{self.answer:g}", self._why["right"])]
            told += [("low", "Below", self._why["low"]), ("high", "Above", self._why["high"])]
            asked = f"<p>{html.escape(self._asked()[0])}</p>"
        else:
            order = sorted(self._why, key=lambda choice: choice != self.answer)  # the right one first
            facts = {"answer": self.answer}
            told = [(choice, choice, self._why[choice]) for choice in order]
            asked = "<ul>" + "".join(f"<li>{html.escape(choice)}</li>" for choice in self._why) + "</ul>"
        whys = "".join(
            f'<p data-choice="{html.escape(key)}"><strong>{html.escape(name)}.</strong> {html.escape(why)}</p>'
            for key, name, why in told
        )
        shown = ""
        if self._reveal is not None:
            png, width = as_png(_nobody_said(self._reveal(self.answer)))
            said = f"{self.answer:g}" if self._numeric else str(self.answer)
            shown = (
                f'<p>The picture as it is drawn for the answer "{html.escape(said)}":</p>'
                f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{html.escape(self.alt)}" '
                f'width="{width}" style="max-width: 100%; height: auto">{folded_words(self.alt)}'
            )
        data = "".join(
            f' data-{key}="{html.escape(str(value))}"' for key, value in ({"name": self.name} | facts).items()
        )
        return (
            f'<div class="apo-question"{data}><p><strong>Predict.</strong> {html.escape(self.question)}</p>{asked}'
            f"<details><summary>Answer</summary>{whys}{shown}</details></div>"
        )


def _nobody_said(picture: Figure | bytes) -> Figure | bytes:
    """A picture drawn for the right answer, where no learner has given one: "You said" becomes "The answer"."""
    if isinstance(picture, Figure):
        for text in picture.findobj(Text):
            text.set_text(text.get_text().replace("You said: ", "The answer: "))
    return picture


class SelfTest:
    """Three questions with fold-out explained answers, as Markdown: it needs no widgets and no kernel.

        SelfTest([("Why is D_0 mode seeking?", "It is KL(p || q), which pays only where p has mass."), ..., ...])

    Args:
        questions: three (question, explained answer) pairs; Markdown and $...$ work in both.

    Raises:
        ValueError: if there are not three pairs, or one of them is empty.
    """

    def __init__(self, questions: Sequence[tuple[str, str]]):
        self.questions = [(str(question), str(answer)) for question, answer in questions]
        if len(self.questions) != 3 or not all(part.strip() for pair in self.questions for part in pair):
            raise ValueError(
                f"questions has {len(self.questions)} pairs; expected three (question, explained answer) pairs, none "
                "empty. Every lesson ends with three."
            )

    def _repr_markdown_(self) -> str:
        parts = [f"**{i}.** {q}\n\n{fold_out('Answer', a)}" for i, (q, a) in enumerate(self.questions, start=1)]
        return "**Test yourself.** Answer aloud, then open the answer.\n\n" + "\n".join(parts)

    def __repr__(self) -> str:
        return "\n".join(f"{i}. {question}" for i, (question, _) in enumerate(self.questions, start=1))
