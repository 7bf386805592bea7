"""The only gradio room."""
