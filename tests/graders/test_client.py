"""The client against a service that is slow, broken, busy, cut off or talks nonsense."""

from __future__ import annotations

import concurrent.futures
import socket
import time

import pytest

from jaxsearch.graders import client as module
from jaxsearch.graders.budget import Shared, abandon
from jaxsearch.graders.client import Client, UnusableError
from jaxsearch.graders.types import GradingError, SpentError
from tests.graders.service import USAGE, Reply, choice, served

IMAGE = "data:image/png;base64,AAAA"


def read(one):
    """A number, as a grader reads one."""
    try:
        return float(one["message"]["content"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableError("the answer is no number") from error


def asking(service, **settings):
    given = {"timeout": 5.0, "backoff": 0.0, **settings}
    return Client(url=service.url, model="critic", **given)


def test_what_is_sent():
    with served(lambda number, asked: choice("7")) as service:
        client = asking(service, api_key="secret")
        assert client.ask("How many?", IMAGE, read, temperature=0.0)[:2] == (7.0, 1)
    (asked,) = service.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == "Bearer secret"
    assert (asked.body["model"], asked.body["temperature"]) == ("critic", 0.0)
    assert asked.text == "How many?"
    assert asked.body["messages"][0]["content"][0]["image_url"]["url"] == IMAGE
    assert "secret" not in repr(client)
    assert client.requests == 1


LATER = {
    "broken": (Reply(b"out of order", status=500), "the server answers 500: out of order"),
    "busy": (Reply(b"", status=429), "the server answers 429"),
    "slow": (Reply(b"", delay=9.0), "no answer within 0.7 s"),
    "dripping": (Reply(b"x" * 300, drip=0.05), "no answer within 0.7 s"),
    "cut off": (Reply(b'{"choices": [', lacks=50), "the response is cut off"),
    "no JSON": (Reply(b"{'choices'"), "the response is no JSON"),
    "no entries": (Reply(b"[1, 2]"), "the response holds no entries"),
    "no choices": (Reply({"choices": []}), "the response has no choices"),
    "odd choices": (Reply({"choices": "seven"}), "the response has no choices"),
    "nonsense": (choice("seven"), "the answer is no number"),
    "null": (choice(None), "the answer is no number"),
}


@pytest.mark.parametrize("kind", LATER)
def test_what_may_pass_is_tried_again(kind):
    """Kills: a failure that counts as an answer, or ends all; a server that outlasts the timeout
    byte by byte; half a response taken for all of it.
    """
    reply, reason = LATER[kind]
    timeout = 0.7 if kind in ("slow", "dripping") else 5.0
    with served(lambda number, asked: choice("7") if number else reply) as service:
        client = asking(service, timeout=timeout)
        assert client.ask("How many?", IMAGE, read)[:2] == (7.0, 2)
    with served(lambda number, asked: reply) as service:
        begun = time.monotonic()
        with pytest.raises(GradingError) as caught:
            asking(service, timeout=timeout, retries=1).ask("How many?", IMAGE, read)
        assert time.monotonic() - begun < 4.0
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.attempts == len(service.asked) == 2


FOR_GOOD = {
    "bad request": Reply(b"no  such\nmodel " + b"x" * 999, status=400),
    "no key": Reply(b"", status=401),
    "elsewhere": Reply(b"", status=302, headers={"Location": "http://example.com"}),
    "nowhere": Reply(b"", status=404),
}


@pytest.mark.parametrize("kind", FOR_GOOD)
def test_what_will_not_pass_is_not_tried_again(kind):
    failing = pytest.raises(GradingError, match="the server answers")
    with served(lambda number, asked: FOR_GOOD[kind]) as service, failing as caught:
        asking(service, retries=3).ask("How many?", IMAGE, read)
    assert len(service.asked) == caught.value.attempts == 1
    assert len(str(caught.value)) < 300
    if kind == "bad request":
        assert "answers 400: no such model xxx" in str(caught.value)


def test_an_answer_that_a_filter_took_is_a_failure():
    reply = choice("", finish_reason="content_filter")
    failing = pytest.raises(GradingError, match="the server's filter")
    with served(lambda number, asked: reply) as service, failing:
        asking(service).ask("How many?", IMAGE, read)
    assert len(service.asked) == 1


def test_without_a_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(GradingError, match=r"no connection: .*refused") as caught:
            Client(url=url, model="critic", retries=2, backoff=0.0).ask("?", IMAGE, read)
    assert caught.value.attempts == 3


def test_waits_grow_and_a_server_may_ask_for_longer_ones(monkeypatch):
    """Kills: a wait that stays the same, or comes after the last attempt; an hour obeyed."""
    waits, slow = [], {"Retry-After": "9"}
    monkeypatch.setattr(module.time, "sleep", waits.append)
    replies = [
        Reply(b"", status=503),
        Reply(b"", status=503, headers=slow),
        Reply(b"", status=503, headers={"Retry-After": "3600"}),
        Reply(b"", status=503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        Reply(b"", status=503),
    ]
    with served(lambda number, asked: replies[number]) as service, pytest.raises(GradingError):
        asking(service, backoff=0.5, retries=4).ask("How many?", IMAGE, read)
    # The service sleeps too, before each reply and after it, for no time at all.
    assert [wait for wait in waits if wait] == [0.5, 9.0, 60.0, 4.0]


def test_the_cap_on_requests_counts_attempts():
    with served(lambda number, asked: Reply(b"", status=500)) as service:
        client = asking(service, max_requests=5, retries=3)
        with pytest.raises(GradingError, match="answers 500"):
            client.ask("?", IMAGE, read)
        with pytest.raises(GradingError, match="the cap of 5 requests is reached") as caught:
            client.ask("?", IMAGE, read)
        assert caught.value.attempts == 1
        with pytest.raises(GradingError, match="cap of 5 requests"):
            client.ask("?", IMAGE, read)
    assert len(service.asked) == client.requests == 5


def all_at_once(client, num):
    """How many of so many questions, asked from eight threads, were answered."""

    def one(_):
        try:
            return client.ask("?", IMAGE, read)[0] == 7.0
        except GradingError:
            return False

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return sum(pool.map(one, range(num)))


def test_the_cap_on_the_cost_is_kept_from_several_threads():
    """An answer is 1000 and 10 tokens. Kills: answers priced as questions; attempts that are under
    way forgotten; a cap that is passed by one.
    """
    price, each = (2.0, 30.0), 1000 * 2e-6 + 10 * 30e-6
    with served(lambda number, asked: choice("7")) as service:
        client = asking(service, max_cost=7.5 * each, price=price)
        assert all_at_once(client, 20) == 7
        assert client.cost == pytest.approx(7 * each)
    assert len(service.asked) == 7


def test_an_attempt_without_an_answer_costs_as_much_as_the_dearest():
    replies = [choice("7"), Reply(b"", status=500), choice("7"), choice("7")]
    with served(lambda number, asked: replies[number]) as service:
        client = asking(service, max_cost=3.5, price=(1000.0, 0.0), retries=2)
        assert client.ask("?", IMAGE, read)[:2] == (7.0, 1)
        assert client.ask("?", IMAGE, read)[:2] == (7.0, 2)
        assert client.cost == pytest.approx(3.0)
        with pytest.raises(GradingError, match=r"the cap of 3\.5 on the cost is reached"):
            client.ask("?", IMAGE, read)
    assert len(service.asked) == 3


def test_a_cap_that_cannot_be_kept_ends_the_questions():
    """A server that does not say its tokens. Kills: a cost of zero that is never reached."""
    silent = Reply({"choices": [{"message": {"content": "7"}}]})
    with served(lambda number, asked: silent) as service:
        client = asking(service, max_cost=1.0, price=(1.0, 1.0))
        assert client.ask("?", IMAGE, read)[:2] == (7.0, 1)
        with pytest.raises(GradingError, match="does not say its tokens"):
            client.ask("?", IMAGE, read)
        assert asking(service, price=(1.0, 1.0)).ask("?", IMAGE, read)[:2] == (7.0, 1)
    assert len(service.asked) == 2
    assert USAGE == {"prompt_tokens": 1000, "completion_tokens": 10}


def test_what_others_have_spent_counts(tmp_path):
    """Kills: a cap that begins anew in another process, or is passed by what is under way there;
    graders whose costs are mixed up.
    """
    cap = {"max_cost": 7.5, "price": (1000.0, 0.0)}
    with served(lambda number, asked: choice("7")) as service:
        clients = [asking(service, **cap) for _ in range(3)]
        for client, name in zip(clients, ("critic", "critic", "another"), strict=True):
            client.share_account(tmp_path / "grades.sqlite", name)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert sum(pool.map(all_at_once, clients[:2], [8, 8])) == 7
        assert [(one.cost, one.requests) for one in clients] == [(7.0, 7)] * 2 + [(0.0, 0)]
        assert len(service.asked) == 7
        assert clients[2].ask("?", IMAGE, read).cost == 1.0
        late = asking(service, **{**cap, "max_cost": 8.5})
        late.share_account(tmp_path / "grades.sqlite", "critic")
        assert late.ask("?", IMAGE, read).attempts == 1
        with pytest.raises(SpentError, match=r"the cap of 8\.5 on the cost is reached") as caught:
            late.ask("?", IMAGE, read)
        assert caught.value.attempts == 0


def test_what_a_killed_process_had_under_way_is_charged(tmp_path):
    """As much as the dearest. Kills: a cap that waits for who will never answer."""
    path = tmp_path / "grades.sqlite"
    abandon(path)  # nobody has asked yet
    assert not path.exists()
    with served(lambda number, asked: choice("7")) as service:
        client = asking(service, max_cost=3.5, price=(1000.0, 0.0))
        client.share_account(path, "critic")
        own, other = Shared(path, "critic"), Shared(path, "other")

        def running():
            with own.held():
                return own.standing().running

        for account in (own, other):
            with account.held():
                account.begin()
        assert client.requests == 1
        abandon(path)
        assert running() == 0  # or the next would wait for it
        assert client.ask("?", IMAGE, read).cost == 1.0
        with other.held():
            assert other.standing() == (1, 0.0, 0, 0.0, False)
        with own.held():
            own.begin()
        assert running() == 1
        abandon(path)
        assert (client.requests, client.cost) == (3, 2.0)


def test_all_attempts_are_on_the_bill():
    replies = [choice("7"), choice("seven"), choice("7"), *[choice("seven")] * 2]
    with served(lambda number, asked: replies[number]) as service:
        client = asking(service, price=(1000.0, 0.0), retries=1)
        assert [client.ask("?", IMAGE, read).cost for _ in range(2)] == [1.0, 2.0]
        with pytest.raises(GradingError) as caught:
            client.ask("?", IMAGE, read)
        assert caught.value.cost == 2.0
        assert client.cost == 5.0


def test_whether_a_server_is_there():
    with served(lambda number, asked: choice("7")) as service:
        asking(service).check_reachable()
        assert not service.asked
    with pytest.raises(ValueError, match=r"nobody answers at .*refused"):
        asking(service).check_reachable()


def test_a_key_that_a_server_repeats_is_not_said():
    reply = Reply(b"no such key: sk-1234", status=401)
    with served(lambda number, asked: reply) as service, pytest.raises(GradingError) as caught:
        asking(service, api_key="sk-1234").ask("?", IMAGE, read)
    assert str(caught.value) == "the server answers 401: no such key: ..."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, "url is 'localhost:8000': it must begin with http"),
        ({"url": "http://"}, "url is 'http://'"),
        ({"url": "http://localhost:no/v1"}, "url has no port that could be: Port could"),
        ({"url": "http://localhost:99999/v1"}, "url has no port that could be: Port out of range"),
        ({"url": "http://local host/v1"}, "url has a character that cannot be sent"),
        ({"url": "http://localhost/é"}, "url has a character that cannot be sent"),
        ({"url": "http://me:secret@host/v1"}, "^url has a user, a query or a fragment: none"),
        ({"url": "http://host/v1?key=secret"}, "^url has a user, a query or a fragment: none"),
        ({"api_key": "sk\n1234"}, "^api_key has a character that cannot be sent$"),
        ({"model": ""}, "model is empty"),
        ({"timeout": 0.0}, r"timeout is 0.0: it must lie in \(0, inf\)"),
        ({"retries": -1}, "retries is -1"),
        ({"backoff": float("nan")}, "backoff is nan"),
        ({"max_requests": -1}, "max_requests is -1"),
        ({"max_cost": 1.0}, "max_cost needs the price"),
        ({"max_cost": -1.0, "price": (1.0, 1.0)}, "max_cost is -1"),
        ({"price": (1.0, -2.0)}, "price is -2"),
        ({"price": (1.0,)}, r"price is \(1.0,\): it must be two numbers"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Client(**{"url": "http://localhost:8000/v1", "model": "critic", **settings})
