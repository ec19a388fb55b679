"""The embedded samples: training their weights, drawing what they detect."""
