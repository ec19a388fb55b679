"""SavedModels of somebody else's: what the graph is, run as it is, and which normalisation it was
trained with.
"""
