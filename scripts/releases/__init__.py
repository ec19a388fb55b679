"""What the release workflows do beside ``kiln``: trust file, report, drafts, issues."""
