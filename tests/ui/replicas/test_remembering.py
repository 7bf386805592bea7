"""What a visitor brought to one replica they have at the next one, without loading their page anew."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from gradio.routes import App

from composer.ui.page import Page
from composer.ui.replicas.remembering import RememberedStates, RememberedTokens
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.visitors import Visitor
from tests.tools import tiny
from tests.tools.handlers import Controls, everything

PLAIN = (str, int, float, type(None))


def plain(value):
    """A copy; fails for anything that a process without the project could not read."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(each) for each in value)
    assert type(value) in (*PLAIN, bool), value
    return value


class PlainMemory:
    """Keeps copies, as the memory in another process does."""

    def __init__(self):
        self.kept = {}

    def remember(self, key, value):
        self.kept[key] = plain(value)

    def recall(self, key):
        return plain(self.kept.get(key))

    def forget(self, key):
        self.kept.pop(key, None)


@pytest.fixture
def memory() -> PlainMemory:
    return PlainMemory()


@pytest.fixture
def replica(tmp_path, memory):
    """replica() -> one more of the same kind: a page and its states, over an engine of its own."""
    made = []
    folder = tiny.adapter(tmp_path / "plain", "llama", 1, r=4)

    def make():
        engine = tiny.engine("llama", {"plain": folder})
        engine.end_tokens = frozenset()
        settings = Settings(folders=True, max_added=2)
        runner = BatchedRunner(engine, settings)
        page = Page(runner, settings)
        blocks = page.blocks()
        made.append(runner)
        return SimpleNamespace(page=page, states=RememberedStates(blocks, memory, runner.added, "tiny"))

    yield make
    for each in made:
        each.close()


@pytest.fixture
def mine(tmp_path) -> str:
    return str(tiny.adapter(tmp_path / "mine", "llama", 7, r=4))


def bring(replica, session: str, source: str) -> Visitor:
    """The visitor of a session, who has added the adapter as the page's events do it."""
    state = replica.states[session]
    visitor = state[replica.states.visitor_id]
    _, checked = everything(replica.page.adding.find(source))[-1]
    everything(replica.page.adding.add(checked, visitor))
    state[replica.states.visitor_id] = visitor
    return visitor


def visitor_of(replica, session: str) -> Visitor:
    return replica.states[session][replica.states.visitor_id]


def adapters_of_a_text(replica, visitor: Visitor) -> list[str]:
    sliders = [1.0 if slot.spare == 0 else 0.0 for slot in replica.page.context.slots]
    view = everything(
        replica.page.generating.generate(Controls(replica.page, visitor=visitor, sliders=sliders))
    )[-1][0]
    assert view["status"]["phase"] == "done"
    return [each["name"] for each in view["adapters"]]


def test_what_a_visitor_added_is_at_the_next_replica_and_is_loaded_when_it_is_used(replica, mine):
    first, second = replica(), replica()
    before = bring(first, "session", mine)
    after = visitor_of(second, "session")
    assert [(each.slot, each.name) for each in after.own] == [(0, "mine")]
    assert "mine" not in second.page.runner.engine.names, "nothing is loaded yet"
    assert after.own == before.own
    assert adapters_of_a_text(second, after) == adapters_of_a_text(first, before) == ["plain", "mine"]


def test_strangers_have_nothing_of_it(replica, mine):
    first, second = replica(), replica()
    bring(first, "session", mine)
    assert visitor_of(second, "another").own == ()


def test_what_was_given_up_does_not_come_back(replica, mine):
    first, second = replica(), replica()
    visitor = bring(first, "session", mine)
    first.page.adding.remove(visitor, SimpleNamespace(_data={"name": "mine"}))
    first.states["session"][first.states.visitor_id] = visitor
    assert visitor_of(second, "session").own == ()


def test_two_visitors_of_one_adapter_share_it_at_the_next_replica_too(replica, mine):
    first, second = replica(), replica()
    for session in ("one", "other"):
        bring(first, session, mine)
    one, other = visitor_of(second, "one"), visitor_of(second, "other")
    added = second.page.runner.added
    assert one.own[0].adapter is other.own[0].adapter
    adapters_of_a_text(second, one)
    one.leave(added)
    assert "mine" in second.page.runner.engine.names, "the other one has it still"
    other.leave(added)
    assert "mine" not in second.page.runner.engine.names


def test_a_login_counts_at_every_replica_and_ends_at_every_one(memory):
    here, there = App(), App()
    here.tokens, there.tokens = RememberedTokens(memory), RememberedTokens(memory)
    here.tokens["secret"] = "class"
    assert there.tokens.get("secret") == "class" and "secret" in there.tokens
    assert there.tokens.get("guess") is None and there.tokens.get(None) is None
    assert there.tokens.get("x" * 10**6) is None
    del there.tokens["secret"]
    assert here.tokens.get("secret") is None
