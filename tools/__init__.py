"""Command-line tools around cxr: each a thin entry point."""
