"""A number for each distinct answer, for a schedule whose confidence counts the distinct answers of a group."""

import hashlib
import re

from full.rewards.answers import final_answer

NO_ANSWER = -1


def answer_number(completion: str) -> int:
    r"""A number in [0, 2^63) that is equal where two completions box the same text; NO_ANSWER without a box.

    White space, dollar signs, thousands commas and the size of fractions (\dfrac) do not count. Nothing is verified, so that
    \frac{1}{2} and 0.5 are two answers and the confidence is read a little low: an exact comparison asks the verifier about
    each pair of answers of a group (`full.evaluation.answer_classes`), hundreds of questions per batch, where this takes
    microseconds per completion.
    """
    answer = final_answer(completion)
    if answer is None:
        return NO_ANSWER
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", re.sub(r"[\s$]", "", answer)).replace(r"\dfrac", r"\frac")
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest()) >> 1
