r"""The normal form of an answer: what it is (a number, a pair, an interval, words, ...) before any algebra.

math-verify reads an answer as one piece of LaTeX and searches it for something it can parse. That rewards wrong answers
("5 \text{ or } 6" is 5 or 6 times a variable, "25_6" is 25, "7 ft 6 in" is 7, "5 0" is 0) and refuses right ones ("5.",
"**5**", "0.\overline{3}"). So the structure is read here, strictly, and math-verify is only given single expressions
without units, words, commas or relations (equality.py). What is not understood is equal to the same text and nothing else.

The conventions are those of the MATH data set's graders, made exact: units are ignored; a base that is written must
agree; order matters in pairs and not in lists or sets; a lone variable on one side of an equation is a name for the answer,
any other equation is a claim; decimals are exact.
"""

from full.rewards.forms.reading import canonical, read
from full.rewards.forms.records import Form

__all__ = ["Form", "canonical", "read"]
