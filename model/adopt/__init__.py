"""Published networks become files of our format: `adopt` reads one, wraps it and checks the result."""
