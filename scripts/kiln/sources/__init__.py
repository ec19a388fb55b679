"""Where kiln's inputs come from: everything fetched here is checked against a pin."""
