"""Rephrases a question in several ways, without a model.

Knows the words that carry no meaning, and the manual's terms for everyday words.
"""

import re

_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r"[`'\"\u201c\u2018](\w+)[`'\"\u201d\u2019]")
_NAMED = re.compile(r"(\w+)\s+(?:statement|keyword|clause|expression|operator)s?\b", re.IGNORECASE)

_STOP_WORDS = frozenset(
    """
    a about all also am an and any are as at be been between but by can could difference do does doing for
    from get give had has have how i if in into is it its just like may me mean means might must my need no
    not of off on one or other our please python say shall should so some tell than that the their them then
    there these they this those to too use used using via want was we were what when where which while who why
    will with work works would write you your
    """.split()  # noqa: SIM905 (a plain list of words is easier to read and extend)
)

_CALLED_IN_THE_MANUAL = {
    "and": "boolean operations",
    "arguments": "parameters calls",
    "array": "sequence list",
    "catch": "try statement except clause",
    "choose": "if elif match case",
    "cleanup": "finally with",
    "constructor": "__init__ __new__ instance",
    "decorate": "function definition decorator",
    "decorator": "function definition decorator",
    "dictionary": "mapping dict",
    "equal": "comparisons __eq__",
    "error": "exceptions raise",
    "errors": "exceptions raise",
    "fstring": "formatted string literal",
    "generator": "yield expression iterator",
    "hash": "__hash__ hashable mapping",
    "inherit": "class base classes",
    "inheritance": "class base classes method resolution order",
    "iterate": "for iterator iterable",
    "lazy": "generator yield",
    "loop": "for while statement",
    "loops": "for while statement",
    "manager": "with statement __enter__ __exit__",
    "metaclass": "class creation metaclasses",
    "module": "import statement",
    "null": "None",
    "override": "special method class",
    "package": "import module",
    "print": "str format conversion",
    "property": "descriptor attribute access",
    "resource": "with context manager",
    "scope": "global nonlocal naming binding",
    "slice": "slicings sequence",
    "substring": "slicing string",
    "switch": "match case pattern",
    "ternary": "conditional expressions",
    "throw": "raise exception",
    "tuple": "expression lists sequence",
    "unpack": "target list assignment starred",
    "variable": "name binding assignment",
    "variables": "name binding assignment",
}


def rephrase(question: str) -> list[str]:
    """Return the question unchanged, its keywords, the manual's words for them, and both; each once."""
    keywords = keywords_of(question)
    manual = [_CALLED_IN_THE_MANUAL[word] for word in keywords if word in _CALLED_IN_THE_MANUAL]
    phrasings = [question.strip(), " ".join(keywords), " ".join(manual), " ".join([*keywords, *manual])]
    return list(dict.fromkeys(phrasing for phrasing in phrasings if phrasing))


def keywords_of(question: str) -> list[str]:
    """Return the question's keywords, lower case, each once.

    Python's own words such as `with` and `for` mean nothing in "a value for x" and everything in "the for
    statement": they count only if the question marks them, by quotes or by the word that follows.
    """
    marked = {word.lower() for word in _QUOTED.findall(question) + _NAMED.findall(question)}
    words = dict.fromkeys(word.lower() for word in _WORD.findall(question))
    return [word for word in words if word in marked or word not in _STOP_WORDS]
