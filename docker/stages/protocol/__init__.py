"""How a request becomes results: the request, the events, the failures, the runner.

Everything else may use it; it knows no stage by name.
"""
