"""Labels from the words of prompts: what the prompts of a feature's pictures say more often than other prompts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from sae.labellers.detection import Evidence, Picture

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
STOP_WORDS = frozenset([
    "a", "an", "the", "this", "that", "these", "those", "some", "several", "many", "and", "or", "but", "of", "in", "on",
    "at", "by", "to", "from", "with", "without", "under", "over", "near", "beside", "behind", "below", "above", "into",
    "is", "are", "was", "be", "it", "its", "as", "for", "one", "two", "three", "there", "while",
])  # fmt: skip
"""Words that a term neither begins nor ends with."""
LONGEST = 3
"""Words of the longest term."""
PRIOR = 2.0
"""Weight of the prior, in prompts."""
LEAST_Z = 1.0
"""Terms below this say too little."""
LEAST_PROMPTS = 2
"""Prompts of the feature that must say a term."""


class PromptLabeller:
    """The term that sets the prompts of a feature's pictures most clearly apart from those of the other pictures.

    A picture shows a label if its prompt says it; pictures without a prompt show nothing.
    """

    name = "prompts"

    def label(self, evidence: Evidence) -> str | None:
        """The term of greatest z; None if none is above `LEAST_Z`."""
        ranked = ranked_terms([firing.picture.prompt for firing in evidence.top], [p.prompt for p in evidence.rest])
        return ranked[0][0] if ranked else None

    def detects(self, label: str, pictures: Sequence[Picture]) -> list[bool]:
        """Whether each prompt says it."""
        return [label in terms(picture.prompt) for picture in pictures]


def terms(prompt: str) -> set[str]:
    """The words of a prompt, in lower case, and its runs of up to `LONGEST` that no stop word begins or ends."""
    words = [word.lower().replace("’", "'") for word in WORD.findall(prompt)]
    return {
        " ".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, min(start + LONGEST, len(words)) + 1)
        if words[start] not in STOP_WORDS and words[end - 1] not in STOP_WORDS
    }


def ranked_terms(here: Iterable[str], elsewhere: Iterable[str]) -> list[tuple[str, float]]:
    """Terms that the prompts ``here`` say more often than those ``elsewhere``, with their z, the clearest first.

    z is the difference of the log-odds that a prompt says the term, over its standard error, with a prior that expects
    both sides to say it as often as all prompts do (Monroe, Colaresi & Quinn, "Fightin' Words", Political Analysis 16,
    2008), so that common words and chance count for little. Empty prompts are left out. Of equal z, longer terms come
    first.
    """
    found, others = [terms(p) for p in here if p.strip()], [terms(p) for p in elsewhere if p.strip()]
    counts, background = Counter(t for said in found for t in said), Counter(t for said in others for t in said)
    ranked = []
    for term, count in counts.items():
        if count < LEAST_PROMPTS:
            continue
        z = log_odds_z(count, len(found), background[term], len(others))
        if z >= LEAST_Z:
            ranked.append((term, z))
    return sorted(ranked, key=lambda entry: (-round(entry[1], 9), -len(entry[0].split()), entry[0]))


def log_odds_z(a: int, n: int, b: int, m: int) -> float:
    """How surely a of n is more than b of m: difference of log-odds over its standard error, under a common prior."""
    expected = PRIOR * (a + b + 1) / (n + m + 2)
    odds_here = (a + expected) / (n - a + PRIOR - expected)
    odds_elsewhere = (b + expected) / (m - b + PRIOR - expected)
    return (math.log(odds_here) - math.log(odds_elsewhere)) / math.sqrt(1 / (a + expected) + 1 / (b + expected))
