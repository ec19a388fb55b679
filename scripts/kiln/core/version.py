"""The version of kiln, in its one place: packaging and ``kiln.__version__`` read it from here."""

__version__ = "0.1.0"
