"""Code shared by the developers' programs."""
