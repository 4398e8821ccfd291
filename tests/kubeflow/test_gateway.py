"""Sign-in as a browser sees it, and as `kfp.Client` does that can't sign in."""

import html
import html.parser
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.kubeflow.conftest import Connect, raised, run_of
from tests.kubeflow.emulator import Kubeflow, kubeflow
from tests.kubeflow.tls import Authority

ANN = "ann@example.com"
ALL: dict[str, Any] = {"users": {ANN: "se&cret"}, "namespaces": {ANN: "team"}}
API = "/pipeline/apis/v2beta1"
RUNS = f"{API}/runs?namespace=team"
JSON = {"Accept": "application/json"}


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    """A client that follows redirections and keeps cookies."""
    with httpx.Client(follow_redirects=True) as one:
        yield one


class Forms(html.parser.HTMLParser):
    """Addresses and fields of a page's forms."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append((given.get("action", ""), {}))
        elif tag == "input":
            self.found[-1][1][given["name"]] = given.get("value", "")


def form_of(page: httpx.Response) -> tuple[str, dict[str, str]]:
    """Returns the address of a page's first form and the values of its fields."""
    reader = Forms()
    reader.feed(page.text)
    action, fields = reader.found[0]
    return urllib.parse.urljoin(str(page.url), action), fields


def sign_in(browser: httpx.Client, k: Kubeflow, login: str = ANN, password: str = "se&cret") -> httpx.Response:
    """Opens Kubeflow and fills in Dex's form; returns the page that follows."""
    page = browser.get(k.url)
    if page.status_code == 403:
        address, fields = form_of(page)
        page = browser.get(address, params=fields)
    address, fields = form_of(page)
    assert fields.keys() == {"login", "password"}
    return browser.post(address, data={"login": login, "password": password})


@pytest.mark.parametrize("kind", ["dex", "authservice"])
@pytest.mark.parametrize("approval", [False, True])
def test_signs_in(kind: Any, approval: bool, browser: httpx.Client) -> None:
    with kubeflow(kind, **ALL, dex={"approval": approval}) as k:
        page = sign_in(browser, k)
        if approval:
            assert page.url.path == "/dex/approval"
            address, fields = form_of(page)
            page = browser.post(address, data=fields)
        assert "Kubeflow Central Dashboard" in page.text
        answer = browser.get(k.url + RUNS)
        assert (answer.status_code, answer.json()) == (200, {})
        assert k.requests[-1].user == ANN
        names = {"authservice_session"} if kind == "authservice" else {f"oauth2_proxy_kubeflow_{at}" for at in (0, 1)}
        assert names <= set(browser.cookies.keys())


@pytest.mark.parametrize("unauthenticated", ["page", "redirect", "direct"])
def test_oauth2_proxy_leads_to_dex_in_three_ways(unauthenticated: Any, browser: httpx.Client) -> None:
    with kubeflow("dex", **ALL, unauthenticated=unauthenticated) as k:
        answer = httpx.get(f"{k.url}/?ns=team")
        expected = {"page": (403, None), "redirect": (302, "/oauth2/start"), "direct": (302, "/dex/auth")}
        location = answer.headers.get("location", "").partition("?")[0] or None
        assert (answer.status_code, location) == expected[unauthenticated]
        assert sign_in(browser, k).status_code == 200


def test_oauth2_proxy_tells_programs_a_401(browser: httpx.Client) -> None:
    with kubeflow("dex", **ALL) as k:
        assert (httpx.get(k.url + RUNS).status_code, httpx.get(k.url + RUNS).text) == (401, "{}")
        assert httpx.get(k.url, headers=JSON).status_code == 401
    with kubeflow("dex", **ALL, api_routes=False) as k:
        assert httpx.get(k.url + RUNS).status_code == 403
        assert httpx.get(k.url + RUNS, headers=JSON).status_code == 401
    with kubeflow("authservice", **ALL) as k:
        assert httpx.get(k.url + RUNS, headers=JSON).headers["location"].startswith("/dex/auth?client_id=")


@pytest.mark.parametrize("kind", ["dex", "authservice"])
def test_a_wrong_password_brings_the_form_again(kind: Any, browser: httpx.Client) -> None:
    with kubeflow(kind, **ALL) as k:
        for login, password in ((ANN, "wrong"), ("bob@example.com", "se&cret"), (ANN, "")):
            page = sign_in(browser, k, login, password)
            assert (page.status_code, "Invalid Email Address and password." in page.text) == (401, True)
            assert form_of(page)[1]["login"] == login
        assert k.sessions.opened == 0
        address, _ = form_of(page)
        assert browser.post(address, data={"login": ANN, "password": "se&cret"}).url.path == "/"


def test_several_ways_to_sign_in(browser: httpx.Client) -> None:
    connectors = ("github", "local", "ldap")
    with kubeflow("dex", **ALL, dex={"connectors": connectors}, unauthenticated="direct") as k:
        page = browser.get(k.url)
        links = [html.unescape(one) for one in re.findall('href="([^"]*)"', page.text)]
        assert [urllib.parse.urlsplit(one).path for one in links] == [f"/dex/auth/{one}" for one in connectors]
        login = browser.get(urllib.parse.urljoin(k.url, links[2]))
        assert "Username" in login.text
        assert "Select another login method." in login.text
        address, _ = form_of(login)
        again = browser.post(address, data={"login": ANN, "password": "se&cret"})
        assert "Invalid Username and password." in again.text
        assert browser.post(address, data={"login": "ann", "password": "se&cret"}).url.path == "/"
        assert browser.get(k.url + RUNS).status_code == 200
        github = browser.get(urllib.parse.urljoin(k.url, links[0]), follow_redirects=False)
        assert github.headers["location"].startswith("https://github.example.com/")


@pytest.mark.parametrize(
    ("kind", "state", "told"),
    [
        ("dex", "oauth2_proxy_kubeflow_csrf", "valid CSRF token"),
        ("authservice", "oidc_state_csrf", "CSRF check failed"),
    ],
)
def test_whoever_loses_the_state_is_not_signed_in(kind: Any, state: str, told: str, browser: httpx.Client) -> None:
    with kubeflow(kind, **ALL) as k:
        page = browser.get(f"{k.url}/oauth2/start" if kind == "dex" else k.url)
        address, _ = form_of(page)
        assert state in browser.cookies
        browser.cookies.clear()
        page = browser.post(address, data={"login": ANN, "password": "se&cret"})
        assert (page.is_error, told in page.text) == (True, True)
        page = browser.post(address, data={"login": ANN, "password": "se&cret"})
        assert (page.status_code, "User session error." in page.text) == (400, True)
        assert k.sessions.opened == 0


def test_whoever_loses_half_of_a_split_cookie_is_not_signed_in(browser: httpx.Client) -> None:
    with kubeflow("dex", **ALL) as k:
        sign_in(browser, k)
        assert browser.get(k.url + RUNS).status_code == 200
        browser.cookies.delete("oauth2_proxy_kubeflow_1")
        assert browser.get(k.url + RUNS).status_code == 401


def test_approval_may_be_refused_and_is_checked(browser: httpx.Client) -> None:
    with kubeflow("dex", **ALL, dex={"approval": True}) as k:
        page = sign_in(browser, k)
        address, fields = form_of(page)
        forged = browser.post(address.partition("?")[0], data=fields)
        assert forged.status_code == 401
        rejected = browser.post(address, data={**fields, "approval": "rejected"})
        assert "Approval rejected." in rejected.text
        assert k.sessions.opened == 0


def test_cookies_are_for_servers_and_for_tls(ca: Authority) -> None:
    for tls in (None, ca):
        with kubeflow("dex", **ALL, tls=tls) as k:
            cookie = httpx.get(f"{k.url}/oauth2/start", verify=ca.client_context()).headers["set-cookie"]
            assert ("HttpOnly" in cookie, "Path=/" in cookie, "Secure" in cookie) == (True, True, bool(tls))


@pytest.mark.parametrize("kind", ["dex", "authservice"])
def test_sessions_end(kind: Any, browser: httpx.Client) -> None:
    with kubeflow(kind, **ALL) as k:
        sign_in(browser, k)
        k.sessions.expire_after(2)
        found = [browser.get(k.url + RUNS, follow_redirects=False).status_code for _ in range(3)]
        assert found == [200, 200, 401 if kind == "dex" else 302]
        sign_in(browser, k)
        assert browser.get(k.url + RUNS).status_code == 200
        k.sessions.expire()
        assert browser.get(k.url + RUNS, follow_redirects=False).status_code == found[2]


def test_no_one_may_say_who_he_is(browser: httpx.Client) -> None:
    with kubeflow("dex", **ALL) as k:
        assert httpx.get(k.url + RUNS, headers={"kubeflow-userid": ANN}).status_code == 401


@pytest.mark.parametrize("kind", ["dex", "authservice"])
def test_a_service_accounts_token_needs_no_sign_in(kind: Any, connect: Connect) -> None:
    with kubeflow(kind, **ALL, tokens={"token-1": "team"}) as k:
        assert run_of(connect(k, existing_token="token-1", namespace="team")).state == "PENDING"
        assert k.requests[-1].user == "system:serviceaccount:team:default-editor"
        assert not [one for one in k.visits if "/dex/" in one]
        answer = httpx.get(k.url + RUNS, headers={"Authorization": "Bearer token-2"})
        assert answer.status_code == (401 if kind == "dex" else 302)
        k.sessions.tokens.clear()
        answer = httpx.get(k.url + RUNS, headers={"Authorization": "Bearer token-1"})
        assert answer.status_code == (401 if kind == "dex" else 302)
        assert not k.refused


@pytest.mark.parametrize("kind", ["dex", "authservice"])
def test_the_client_takes_the_cookies_of_a_browser(kind: Any, browser: httpx.Client, connect: Connect) -> None:
    with kubeflow(kind, **ALL) as k:
        sign_in(browser, k)
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        client = connect(k, cookies=cookies, namespace="team")
        assert run_of(client).state == "PENDING"
        k.sessions.expire()
        if kind == "dex":
            assert raised(client.list_runs).status == 401
            return
        # Behind oidc-authservice the client follows a redirection to Dex's form, and takes that for an empty answer.
        assert client.list_runs().to_dict() == {"next_page_token": None, "runs": None, "total_size": None}
        assert client.get_kfp_healthz().multi_user is None
        assert client.get_pipeline_id("nlp-pipeline") is None
        assert raised(client.create_experiment, "another").status == 400


def test_what_is_no_kubeflow_answers_the_client_too(connect: Connect) -> None:
    with kubeflow("no kubeflow") as k:
        client = connect(k, namespace="team")
        assert client.get_kfp_healthz().multi_user is None
        assert client.create_experiment("reviews").experiment_id is None
        assert client.run_pipeline("1", "a run", pipeline_id="1", version_id="1").run_id is None
        assert "It works!" in httpx.get(f"{k.url}{API}/healthz").text
        assert not k.requests


def test_a_sign_in_that_no_one_knows(browser: httpx.Client) -> None:
    with kubeflow("unknown", **ALL) as k:
        page = browser.get(k.url)
        assert page.url.path == "/sso/login"
        assert form_of(page)[1].keys() == {"employee_number", "one_time_code", "token"}


def test_addresses_with_one_user_and_with_several() -> None:
    with kubeflow() as k:
        assert httpx.get(f"{k.url}/apis/v2beta1/healthz").json()["multi_user"] is False
        assert httpx.get(f"{k.url}{API}/healthz").json()["multi_user"] is False
        assert "Pipelines" in httpx.get(f"{k.url}/anything").text
    with kubeflow(**ALL) as k:
        assert httpx.get(f"{k.url}/apis/v2beta1/healthz").status_code == 404
        assert httpx.get(f"{k.url}{API}/healthz").json()["multi_user"] is True
        assert httpx.get(k.url + RUNS).status_code == 401
