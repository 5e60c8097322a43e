"""The page: a Gradio app that paints. ``page.build(painter)`` makes it; ``session.Studio`` shares one model fairly."""
