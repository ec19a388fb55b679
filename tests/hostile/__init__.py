"""What strangers and bad days do to kiln: generators, judges, and the program that runs them."""
