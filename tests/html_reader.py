"""What a browser makes of a page."""

from html.parser import HTMLParser


class Read(HTMLParser):
    """A page's elements, each a list of its tag, its attributes and its own text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in ("meta", "input", "br"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    @property
    def tags(self):
        return [(tag, attrs) for tag, attrs, _ in self.elements]

    def of(self, name):
        """Return the values of an attribute."""
        return [attrs[name] for _, attrs in self.tags if name in attrs]

    def texts(self, tag, kind=""):
        return [t for name, a, t in self.elements if (name, a.get("class", "")) == (tag, kind)]


if __name__ == "__main__":
    print(Read("<p>1</p>").elements)
