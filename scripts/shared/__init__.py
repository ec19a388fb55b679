"""What the developers' programs have in common."""
