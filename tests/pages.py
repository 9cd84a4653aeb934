"""A page of HTML as a tree, for tests that ask what it tells."""

from html.parser import HTMLParser

VOID = {"meta", "br", "wbr", "hr", "img", "input", "link"}


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.children = tag, dict(attributes), parent, []

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def words(self):
        """The text with white space as a reader sees it."""
        return " ".join(self.text.split())

    @property
    def classes(self):
        return (self.attributes.get("class") or "").split()

    def all(self, tag=None, **attributes):
        """Every element below of that tag, with these attributes; `cls` is one of its classes."""
        cls = attributes.pop("cls", None)
        below = [child for child in self.children if isinstance(child, Element)]
        return [
            found
            for child in below
            for found in [child, *child.all()]
            if tag in (None, found.tag)
            and (cls is None or cls in found.classes)
            and attributes.items() <= found.attributes.items()
        ]

    def above(self):
        return [] if self.parent is None else [self.parent, *self.parent.above()]


class _Parser(HTMLParser):
    """One that takes no tag for closed that is not."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("root", [], None)
        self.feed(page)
        self.close()
        assert self.at is self.root, f"<{self.at.tag}> is never closed"

    def handle_starttag(self, tag, attributes):
        assert len(attributes) == len(dict(attributes)), f"<{tag}> has an attribute twice"
        element = Element(tag, attributes, self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag, attributes):
        self.at.children.append(Element(tag, attributes, self.at))

    def handle_endtag(self, tag):
        assert tag == self.at.tag, f"</{tag}> closes <{self.at.tag}> {self.at.attributes}"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.children.append(data)


def read(page):
    """The tree of a page that stands alone: it is valid, and nothing leads out of it."""
    root = _Parser(page).root
    ids = [element.attributes["id"] for element in root.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in root.all():
        names = element.attributes
        assert not {"src", "srcset", "action", "data", "poster", "background"} & names.keys()
        assert not [name for name in names if name.startswith("on")]
        for name in ("href", "xlink:href"):
            assert names.get(name, "#").startswith("#")
            assert names.get(name, "#")[1:] in ["", *ids]
        assert names.get("aria-labelledby", ids[0] if ids else None) in [*ids, None]
    assert "@import" not in page
    assert "url(" not in page.replace("url(#", "")
    assert not root.all("link")
    assert not root.all("iframe")
    assert len(root.all("h1")) == len(root.all("script")) == 1
    return root
