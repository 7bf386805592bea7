"""The page's endpoints for programs, over the wire, and what they refuse."""

from __future__ import annotations

import json
import math
import urllib.request
from itertools import pairwise

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False, httpx_kwargs={"timeout": 120})  # a loaded machine is slow to answer


def test_generate_returns_text_and_numbers(client):
    answer = client.predict("The match", {"sports": 1.0}, max_new_tokens=3, seed=5, api_name="/generate")
    assert answer["text"] and answer["count"] == len(answer["tokens"]) <= 3
    contribution = np.array(answer["contribution"])
    assert contribution.shape == (answer["count"], answer["layers"], len(answer["adapters"]))
    sports = answer["adapters"].index("sports")
    assert contribution[:, :, sports].max() > 0
    assert np.delete(contribution, sports, axis=2).max() == 0
    assert answer["finish"] in ("length", "end")
    again = client.predict("The match", '{"sports": 1}', max_new_tokens=3, seed=5, api_name="/generate")
    assert again["tokens"] == answer["tokens"], "the same seed gave another text"


def test_generate_streams(client):
    job = client.submit("The match", {}, max_new_tokens=4, api_name="/generate")
    job.result()
    texts = [each["text"] for each in job.outputs()]
    assert len(texts) >= 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_fuse_returns_shares(client):
    answer = client.predict("The match last night", api_name="/fuse")
    kl, alpha = np.array(answer["kl"]), np.array(answer["alpha"])
    assert kl.shape == alpha.shape == (len(answer["undecided"]), len(answer["adapters"]))
    np.testing.assert_allclose(alpha.sum(axis=1), 1, atol=1e-5)
    assert (kl >= -1e-6).all()


def test_fuse_of_two(client):
    answer = client.predict("The match", ["world", "sports"], api_name="/fuse")
    assert answer["adapters"] == ["world", "sports"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "x" * 5000}, "shorten it"),
        ({"prompt": 7}, "prompt is empty"),
        ({"weights": {"nobody": 1}}, "no adapter called 'nobody'"),
        ({"weights": {"sports": 99}}, "between -8 and 8"),
        ({"weights": '{"sports": NaN}'}, "between -8 and 8"),
        ({"weights": "{"}, "as an object"),
        ({"method": "<b>"}, "no method"),
        ({"strength": "nan"}, "Strength"),
        ({"bands": [1, 2]}, "three numbers"),
        ({"bands": None}, "three numbers"),
        ({"max_new_tokens": 151}, "at most 150"),
        ({"max_new_tokens": 1e12}, "max_new_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(client, arguments, words):
    good = {"prompt": "The", "weights": {}, "max_new_tokens": 1}
    with pytest.raises(AppError, match=words):
        client.predict(**{**good, **arguments}, api_name="/generate")


@pytest.mark.parametrize("adapters", [["nobody"], [], "sports", [None]])
def test_fuse_refuses_unknown_adapters(client, adapters):
    with pytest.raises(AppError, match="adapter"):
        client.predict("The match", adapters, api_name="/fuse")


def post(url, body):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def last_message(server, body):
    """Queue an event by its number, as the page does, and wait for its end."""
    post(f"{server}/gradio_api/queue/join", body)
    url = f"{server}/gradio_api/queue/data?session_hash={body['session_hash']}"
    with urllib.request.urlopen(url, timeout=300) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message
    pytest.fail("the stream ended without an answer")


@pytest.mark.parametrize(
    ("widget", "value", "words"),
    [
        ("one-sports", math.nan, "weight of sports"),  # Gradio's own bounds let a NaN pass
        ("prompt", "half a smile: \ud83d", "broken characters"),
    ],
)
def test_what_a_page_would_not_send_is_refused_on_the_server(server, client, widget, value, words):
    """The page's handler is reached without the page."""
    config = client.config
    generate = next(dep for dep in config["dependencies"] if len(dep["inputs"]) > 15 and dep["backend_fn"])
    kinds = {each["id"]: each for each in config["components"]}
    values = [kinds[number]["props"].get("value") for number in generate["inputs"]]
    values[0] = "The movie"
    names = [kinds[number]["props"].get("elem_id") for number in generate["inputs"]]
    values[names.index(widget)] = value
    body = {"data": values, "fn_index": generate["id"], "session_hash": f"raw-{widget}", "event_data": None}
    answer = last_message(server, body)
    assert answer["success"]
    status = answer["output"]["data"][0]["status"]
    assert status["phase"] == "error"
    assert words in status["message"]


def test_half_a_character_in_a_call_gets_its_sentence(server, client):
    generate = next(dep for dep in client.config["dependencies"] if dep["api_name"] == "generate")
    values = ["half a smile: \ud83d", {}, "sum", 1, [1, 1, 1], 1, "unit", 1, 3, 1, 1, 0, 1, 0]
    values += [True, "last", 0, None, None, None, None, {}, {}]
    body = {"data": values, "fn_index": generate["id"], "session_hash": "raw-call"}
    answer = last_message(server, body)
    assert not answer["success"]
    assert "broken characters" in answer["output"]["error"]
