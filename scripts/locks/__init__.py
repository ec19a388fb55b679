"""What the programs that update the locks share."""
