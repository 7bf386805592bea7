"""Gradio's table of sessions, in which visitors who have left make room first and give back what they had."""

from __future__ import annotations

from collections import OrderedDict

import gradio as gr
from gradio.state_holder import SessionState


class SessionTable(OrderedDict[str, SessionState]):
    """What a StateHolder keeps sessions in. Where there are too many it takes the least recently used out
    and tells none of its components: that visitor's adapters would stay in memory without a visitor.
    """

    def popitem(self, last: bool = True) -> tuple[str, SessionState]:
        """With last=False: the oldest session whose page is closed, else the oldest; its states are deleted.

        The one that is used now stands last and is not taken for its page.
        """
        if last:
            return super().popitem()
        oldest = list(self)[:-1] or list(self)
        session = next((each for each in oldest if self[each].is_closed), oldest[0])
        state = self.pop(session)
        for component, value, _ in state.state_components:
            component.delete_callback(value)
        return session, state


def keep_sessions(blocks: gr.Blocks) -> None:
    """Have the page's sessions make room as a SessionTable does. The page has its app."""
    blocks.state_holder.session_data = SessionTable(blocks.state_holder.session_data)
