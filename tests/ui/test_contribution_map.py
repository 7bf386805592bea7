"""What is sent to the browser: columns, tails, and the colours of the legend."""

import base64

import numpy as np
import pytest

from composer.core.catalog_types import AdapterSpec
from composer.core.results import Step
from composer.ui.components.contribution_map import TAIL, Status, column, legend, message


def step(index, text="", contribution=((0.0, 0.0), (0.0, 0.0))):
    return Step(0, index, 5, "", text, np.asarray(contribution, np.float32), 0.1 * index)


def decode(sent):
    return np.frombuffer(base64.b64decode(sent["data"]), "<u2") / 65535 * sent["max"]


def test_a_column_carries_its_numbers_layer_by_layer():
    sent = column(step(3, "ab", [[0.5, 0.25], [0.0, 1.0]]))
    assert (sent["i"], sent["end"], sent["max"]) == (3, 2, 1.0)
    np.testing.assert_allclose(decode(sent), [0.5, 0.25, 0, 1], atol=1 / 65535)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_number_that_cannot_be_drawn_is_sent_as_0(bad):
    np.testing.assert_allclose(decode(column(step(0, "", [[bad, 0.5], [0, 0]]))), [0, 0.5, 0, 0], atol=1e-5)


def test_all_zero_is_all_zero():
    assert column(step(0))["max"] == 0.0
    assert not decode(column(step(0))).any()


def send(count, fresh):
    steps = [step(i, "x" * (i + 1)) for i in range(count)]
    return message("run", "The", steps, [{"label": "A"}], 2, Status("writing"), room=60, fresh=fresh)


def test_new_columns_go_with_a_tail_of_older_ones():
    sent = send(50, fresh=3)
    assert [each["i"] for each in sent["columns"]] == list(range(50 - 3 - TAIL, 50))
    assert (sent["count"], sent["text"], sent["room"]) == (50, "x" * 50, 60)


def test_the_last_message_has_every_column():
    assert [each["i"] for each in send(50, fresh=None)["columns"]] == list(range(50))


def test_nothing_written_yet():
    sent = send(0, fresh=0)
    assert (sent["columns"], sent["text"], sent["count"]) == ([], "", 0)


def test_added_adapters_take_the_colours_of_their_sliders():
    adapters = (
        AdapterSpec("a", "x", label="A", color="#123456"),
        AdapterSpec("b", "y"),
        AdapterSpec("c", "z"),
    )
    assert legend(adapters) == [
        {"name": "a", "label": "A", "color": "#123456"},
        {"name": "b", "label": "b", "color": "#888888"},
        {"name": "c", "label": "c", "color": "#888888"},
    ]
