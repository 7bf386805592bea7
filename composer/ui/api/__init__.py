"""The page's actions for programs: endpoints for gradio_client and plain HTTP, and MCP tools for agents."""

from composer.ui.api.endpoints import make_endpoints

__all__ = ["make_endpoints"]
