"""Command line: commands, tables and the live view. The only folder that prints.

May import every folder below, in commands only, so that ``sweep --help`` is instant. The face is ``app.main``.
"""
