"""The forms and links of sign-in pages."""

from nlp_pipeline.client.pages import Page


def test_forms_with_their_fields_in_full() -> None:
    page = Page(
        "https://host/dex/auth/local?state=x",
        "<title> Dex </title><a href='/oauth2/start?rd=%2F'>x</a><a>y</a><input name=outside value=1>"
        "<form method=post action='/dex/login?a=1&amp;b=2'><input name='login' type='text' value='a&quot;b'>"
        "<input type=password name=password><input type=hidden name=h value=1><input type=submit value=x></form>"
        "<form><button name=approval value=approve>Grant</button></form>",
    )
    first, second = page.forms
    assert page.title == "Dex" and page.links == ["https://host/oauth2/start?rd=%2F"]
    assert (first.action, first.method) == ("https://host/dex/login?a=1&b=2", "POST")
    assert first.fields == {"login": 'a"b', "password": "", "h": "1"}
    assert (first.field_of("password"), first.field_of("text"), first.field_of("email")) == ("password", "login", None)
    # A form without an address is sent to its page.
    assert (second.action, second.method, second.fields) == (page.address, "GET", {"approval": "approve"})


def test_types_are_read_without_regard_to_case() -> None:
    page = Page("https://host/", "<FORM METHOD=Post><INPUT TYPE=Password NAME=P></FORM>")
    assert page.forms[0].field_of("password") == "P" and page.forms[0].method == "POST"


def test_what_is_no_page_has_nothing() -> None:
    for text in ("", "{}", "<form", "</form></title>", "<title>x", "\x00<"):
        page = Page("https://host/", text)
        assert not page.links and all(not form.fields for form in page.forms)
