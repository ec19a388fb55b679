"""Setting up a machine: a container engine, and the tools that some tests need."""
