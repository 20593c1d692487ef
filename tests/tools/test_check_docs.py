"""Every page of docs/ is in an index."""

from tools.check_docs import DOCS, unlisted


def test_a_page_that_no_index_lists_is_reported():
    pages = [DOCS / "tutorial.md", DOCS / "how-to" / "planted.md", DOCS.parent / "README.md"]
    pages += [DOCS / "how-to" / "backends" / "jaeger.md", DOCS / "contributing" / "decisions" / "0001-x.md"]
    assert list(unlisted(pages)) == ["docs/how-to/planted.md: is not in docs/README.md"]
