"""Turn a request into results: the request, the events, the failures, the runner.

Every other package may use it; it knows no stage by name.
"""
