"""The parts of the demonstration: a server, a client that follows runs, three scenes and a screen.

An HTTP client like any other: nothing in here imports the runtime or the application.
"""
