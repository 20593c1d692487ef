"""What a request's wording shows of the work that it asks for: counts of surface features. Pure, in linear time.

Each feature means the same in every kind of request, and more of it means more work; the weights are elsewhere
(`offramp/complexity.json`).
"""

from __future__ import annotations

import math
import re
from itertools import pairwise

TEXT_CHARS_MAX = 4_000
"""Characters of a text that are looked at."""

QUOTES = {'"': '"', "“": "”"}
# Material that the request is about, not wording: each alternative is bounded, or ends at the next mark of its kind.
QUOTED = re.compile(
    r"\"[^\"]{1,600}\"|“[^“”]{1,600}”|(?<!\w)'(?:[^']|(?<=\w)'(?=\w)){1,400}'(?!\w)|`[^`]{1,600}`"
    r"|https?://\S+|\[[^\[\]]{0,300}\]|\{[^{}]{0,300}\}"
)
PIECE = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d[\d.,:/-]*|[.!?]+(?=\s|$)|[,;:(]|\n+")
END, PAUSE = ".!?\n", ",;:("


def words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


ORDER = words(
    """
    after afterward afterwards before finally first firstly followed following last lastly later meanwhile next
    once second secondly subsequently then third thirdly
    """
)
MORE = words("additionally along also another besides else furthermore moreover other plus too well")
SEVERAL = words(
    """
    all among between both combined common compare comparison difference different each either every five four
    multiple neither respectively same several six three together two various versus vs
    """
)
RELATIVE = words("how that what when where which who whom whose why")
ASKING = words("are can could did do does had has have is may might must should was were will would")
ADDRESSED = words("i it we you")
ACTIONS = words(
    """
    add adjust analyse analyze apply arrange ask assess assign attach book build buy calculate call cancel change
    check choose classify close collect combine compare complete compose compute confirm contact convert copy
    count create customize cut decide delete deliver describe design detect determine develop display divide
    download draft draw edit enhance enroll ensure estimate evaluate examine execute explain explore export
    extract fetch fill filter find fix forward generate get give guide identify implement improve include increase
    inform initiate insert install invest list listen locate log look make manage mark measure merge modify
    monitor move multiply navigate notify obtain open optimize order organize pay perform place plan play post
    predict prepare print process produce provide publish purchase rank read rearrange recommend record reduce
    refine register remind remove rename replace reply report request reserve resolve retrieve return review
    rewrite save schedule search segment select send set share show simplify simulate solve sort split stabilize
    start stop store submit suggest sum summarize supply synchronize tell test track train transcribe transfer
    transform translate transpose turn update upload use validate verify view visit watch write
    """
)
JOINING = words(", also and or then")
POINTING = words("a an that the this")
LONG_CHARS, REPEATABLE_CHARS = 8, 5

FEATURES = {
    "words": ("word", "words"),
    "order": ("word of order", "words of order"),
    "more": ('word that adds ("also")', 'words that add ("also")'),
    "ands": ('"and"', '"and"'),
    "ors": ('"or"', '"or"'),
    "several": ('word for several things ("both")', 'words for several things ("both")'),
    "relative": ("clause inside a sentence", "clauses inside a sentence"),
    "yes_or_no": ("question for a yes or no", "questions for a yes or no"),
    "actions": ('joined action ("and send")', 'joined actions ("and send")'),
    "names": ("name in a sentence", "names in a sentence"),
    "repeated": ("repeated word", "repeated words"),
    "results": ("reference to a result", "references to a result"),
    "long": ("long word", "long words"),
}
"""Every feature, and what a person calls one and several of it."""


def counted(name: str, count: int) -> str:
    """A count of a feature for a person: `2 names in a sentence`, `no "or"`."""
    one, several = FEATURES[name]
    return f"{count or 'no'} {one if count == 1 else several}"


def is_latin(text: str) -> bool:
    """Whether most letters of the text are of the Latin alphabet; the words above are English."""
    letters = [letter for letter in text[:TEXT_CHARS_MAX] if letter.isalpha()]
    return 2 * sum(letter < "\u0250" for letter in letters) > len(letters)


def counts(text: str) -> dict[str, int]:
    """How often each of `FEATURES` occurs in the first `TEXT_CHARS_MAX` characters, outside quoted material."""
    wording = QUOTED.sub(" ", _unwrapped(text[:TEXT_CHARS_MAX]))
    found = dict.fromkeys(FEATURES, 0)
    seen: set[str] = set()
    before, starts, after_name = "", True, False
    for piece, following in pairwise([*PIECE.findall(wording), "."]):
        if piece[0] in END or piece[0] in PAUSE:
            starts = starts or piece[0] in END
            before, after_name = piece[0], False
            continue
        word = piece.lower()
        names = piece[0].isupper() and not starts and piece != "I"
        for name, holds in (
            ("words", True),
            ("order", word in ORDER),
            ("more", word in MORE),
            ("ands", word == "and"),
            ("ors", word == "or"),
            ("several", word in SEVERAL),
            ("relative", word in RELATIVE and not starts),
            ("yes_or_no", starts and word in ASKING and following.lower() not in ADDRESSED),
            ("actions", word in ACTIONS and before in JOINING),
            ("names", names and not after_name),
            ("repeated", len(word) >= REPEATABLE_CHARS and word in seen),
            ("results", word.endswith("ed") and before in POINTING),
            ("long", len(word) >= LONG_CHARS and piece[0].isalpha()),
        ):
            found[name] += holds
        seen.add(word)
        before, starts, after_name = word, False, names
    return found


def scaled(count: int) -> float:
    """A count as the model takes it: the tenth of a kind says less than the second."""
    return math.log1p(count)


def _unwrapped(text: str) -> str:
    """Without the quotation marks around all of it."""
    text = text.strip()
    wrapped = len(text) > 1 and QUOTES.get(text[0]) == text[-1]
    return text[1:-1] if wrapped else text
