"""The page's endpoints for programs, over the wire, and what they refuse."""

from __future__ import annotations

import asyncio
import json
import math
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


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
        ({"max_new_tokens": 601}, "at most 600"),
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
    values += [True, "last", 0, None, None, None, None, {}, {}, None, None, 1, 0.6]
    body = {"data": values, "fn_index": generate["id"], "session_hash": "raw-call"}
    answer = last_message(server, body)
    assert not answer["success"]
    assert "broken characters" in answer["output"]["error"]


# --- every action ------------------------------------------------------------------------------------

MIX = {"prompt": "The match", "weights": {"positive": 1, "sports": 1}, "max_new_tokens": 4, "seed": 3}
# One working call of each endpoint, and what its answer must have.
CALLS = {
    "generate": (MIX, "text"),
    "fuse": ({"prompt": "The match"}, "alpha"),
    "next_words": (MIX, "words"),
    "compare": ({**MIX, "methods": ["sum", "ties"], "texts": 2}, "columns"),
    "explain": (MIX, "findings"),
    "dose": ({**MIX, "sweep": {"sports": [0, 1, 2]}}, "sweet_spot"),
    "adapters": ({}, "adapters"),
    "search_adapters": ({"words": "pirate"}, "found"),
    "check_adapter": ({"source": "owner/name"}, "fits"),
    "recipe": (MIX, "yaml"),
    "export": ({**MIX, "export_rank": 4}, None),
}
OFFLINE = ("search_adapters", "check_adapter")


def test_every_endpoint_is_here_with_types_and_words(client):
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(described) == {f"/{name}" for name in CALLS}
    for each in described.values():
        assert all(argument["type"] for argument in each["parameters"])


@pytest.mark.parametrize("name", [name for name in CALLS if name not in OFFLINE])
def test_each_endpoint_works_for_a_program(client, name):
    arguments, key = CALLS[name]
    answer = client.predict(**arguments, api_name=f"/{name}")
    if name == "export":
        with zipfile.ZipFile(answer) as archive:
            names = {Path(each).name for each in archive.namelist() if not each.endswith("/")}
        assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md", "recipe.yaml"}
    else:
        assert answer[key]
    if name == "compare":
        # The base and an adapter alone choose nothing; each mix one of its two texts.
        chosen = [column["likeliest"] for column in answer["columns"]]
        assert chosen[:3] == [None] * 3 and set(chosen[3:]) <= {0, 1} and len(chosen) == 5


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("compare", {"methods": ["nothing"]}, "list of names"),
        ("compare", {"texts": 99}, "number of texts"),
        ("compare", {"weights": {}}, "Every slider is at 0"),
        ("dose", {"sweep": {}}, "one adapter, or two"),
        ("dose", {"sweep": {"sports": [0, 2]}}, "three numbers"),
        ("dose", {"sweep": "<img>"}, "as objects"),
        ("dose", {"sweep": {"nobody": [0, 1, 2]}}, "not here"),
        ("dose", {"sweep": {"sports": [0, 2, 25]}, "texts": 8, "prompts": ["a", "b", "c"]}, "at most 400"),
        ("explain", {"schedule": {"sports": [2, 3]}}, "schedule"),
        ("export", {"method": "arrow"}, "no single adapter"),
        ("export", {"export_rank": -1}, "rank"),
        ("next_words", {"method": "ties"}, "press Generate"),
        ("generate", {"weights": {"owner/nothing": 1}}, "Hub"),
        ("check_adapter", {"source": "../../etc"}, "owner/name"),
        ("check_adapter", {"source": "assets/adapters"}, "owner/name"),
    ],
)
def test_what_an_endpoint_cannot_do_is_a_sentence(client, name, changes, words):
    with pytest.raises(AppError, match=words):
        client.predict(**{**CALLS[name][0], **changes}, api_name=f"/{name}")


def with_tools(server, work):
    """What `work` returns of an MCP session with the page, in an event loop of its own."""

    async def session():
        at = streamablehttp_client(f"{server}/gradio_api/mcp/")
        async with at as (read, write, _), ClientSession(read, write) as agent:
            await agent.initialize()
            return await work(agent)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, session()).result()


def test_every_endpoint_is_a_tool_that_says_what_it_takes(server):
    tools = with_tools(server, lambda agent: agent.list_tools()).tools
    assert {tool.name for tool in tools} == set(CALLS)
    for tool in tools:
        assert len(tool.description) > 40
        for argument in tool.inputSchema["properties"].values():
            assert argument["description"]


@pytest.mark.parametrize("name", [name for name in CALLS if name not in OFFLINE])
def test_each_tool_works_for_an_agent(server, name):
    answer = with_tools(server, lambda agent: agent.call_tool(name, CALLS[name][0]))
    assert not answer.isError
    key, text = CALLS[name][1], answer.content[0].text
    assert key is None or f'"{key}"' in text or f"'{key}'" in text


def test_an_agent_hears_a_sentence(server):
    asked = {**MIX, "weights": {"nobody": 1}}
    answer = with_tools(server, lambda agent: agent.call_tool("generate", asked))
    assert answer.isError and "no adapter called 'nobody'" in answer.content[0].text
