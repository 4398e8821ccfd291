"""The pages of a sign-in, as far as a program must read them: their forms and links."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin


@dataclass
class Form:
    """A form.

    Attributes:
        action: Where it is sent, an absolute address.
        method: "GET" or "POST".
        fields: Values of its fields by their names; empty where none is preset.
        types: Types of its fields by their names, as "password".
    """

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def field_of(self, kind: str) -> str | None:
        """Returns the name of the first field of a type."""
        return next((name for name, one in self.types.items() if one == kind), None)


class Page(HTMLParser):
    """A page.

    Args:
        address: Its address.
        text: Its HTML.

    Attributes:
        forms: Its forms.
        links: The addresses that it links to.
        title: Its title.
    """

    def __init__(self, address: str, text: str) -> None:
        super().__init__()
        self.address = address
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.title = ""
        self._form: Form | None = None
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes forms, their fields, and links."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            action = urljoin(self.address, given.get("action", ""))
            self._form = Form(action, given.get("method", "GET").upper())
            self.forms.append(self._form)
        elif tag in ("input", "button") and self._form is not None and given.get("name"):
            self._form.fields.setdefault(given["name"], given.get("value", ""))
            self._form.types.setdefault(given["name"], given.get("type", "text").lower())
        elif tag == "a" and given.get("href"):
            self.links.append(urljoin(self.address, given["href"]))
        elif tag == "title":
            self._in_title = True

    def handle_endtag(self, tag: str) -> None:
        """Notes the end of forms and titles."""
        if tag == "form":
            self._form = None
        elif tag == "title":
            self._in_title = False

    def handle_data(self, data: str) -> None:
        """Notes the title."""
        if self._in_title:
            self.title += data.strip()
