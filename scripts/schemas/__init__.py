"""Generate the modules that hold a file format's schema as data."""
