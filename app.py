"""Serve the chat page: `python app.py --help` lists the options."""

from multimodal.cli.commands import serve_main

if __name__ == "__main__":
    serve_main()
