"""Where more visitors come than states are kept of, those who left make room first; their adapters go too."""

from __future__ import annotations

import socket

import gradio as gr
import pytest
from gradio.routes import App

from composer.ui.bases.page_app import PageApp
from composer.ui.launch import serving
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.sessions import SessionTable, keep_sessions
from composer.ui.settings import Settings
from composer.ui.visitors import Visitor
from tests.tools import tiny
from tests.tools.handlers import everything


@pytest.fixture
def told():
    """What components were told of as deleted."""
    return []


@pytest.fixture
def holder(told):
    """Gradio's own, for a page with one state, of at most three sessions."""
    with gr.Blocks() as blocks:
        state = gr.State("nobody", delete_callback=told.append)
    blocks.state_session_capacity = 3
    App.create_app(blocks)
    keep_sessions(blocks)
    blocks.state_holder.state = state._id
    return blocks.state_holder


def come(holder, *sessions):
    for session in sessions:
        holder[session][holder.state] = session


def test_the_least_recently_used_makes_room_and_gives_back(holder, told):
    come(holder, "a", "b", "c")
    assert holder["a"][holder.state] == "a"
    come(holder, "d", "e")
    assert told == ["b", "c"] and list(holder.session_data) == ["a", "d", "e"]
    assert holder["a"][holder.state] == "a"
    assert set(holder.time_last_used) == {"a", "d", "e"}


def test_whoever_has_left_makes_room_before_anybody_who_is_there(holder, told):
    come(holder, "a", "b", "c")
    holder.session_data["b"].is_closed = holder.session_data["c"].is_closed = True
    come(holder, "d", "e")
    assert told == ["b", "c"] and list(holder.session_data) == ["a", "d", "e"]


def test_the_only_one_who_is_served_is_not_taken_for_somebody_who_left(holder, told):
    come(holder, "a", "b", "c")
    holder.session_data["c"].is_closed = True
    assert holder["c"][holder.state] == "c"
    holder.capacity = 2
    assert holder["c"][holder.state] == "c"
    assert told == ["a"] and list(holder.session_data) == ["b", "c"]


def test_the_adapters_of_a_visitor_who_made_room_leave_the_memory(tmp_path):
    runner = BatchedRunner(tiny.engine("llama", {}), settings := Settings(folders=True, max_added=2))
    page = Page(runner, settings)
    blocks = page.blocks()
    blocks.state_session_capacity = 2
    PageApp(blocks, "/base/tiny")
    holder = blocks.state_holder
    [key] = [
        key
        for key, block in blocks.blocks.items()
        if isinstance(block, gr.State) and isinstance(block.value, Visitor)
    ]
    for place, session in enumerate(("one", "two", "three")):
        source = str(tiny.adapter(tmp_path / session, "llama", place, r=4))
        visitor = holder[session][key]
        _, checked = everything(page.adding.find(source))[-1]
        everything(page.adding.add(checked, visitor))
        holder[session][key] = visitor
    assert runner.engine.names == ("two", "three")
    runner.close()


def test_the_served_page_keeps_its_sessions_so():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(port=port, max_bases=1)
    with serving(tiny.engine("llama", {}), settings) as server:
        assert isinstance(server.blocks.app.state_holder.session_data, SessionTable)
