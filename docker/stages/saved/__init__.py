"""Handle SavedModels that other exporters made: identify the graph, run it unchanged, and find the
normalisation it was trained with.
"""
