"""One question per file; the first line of each is what we expect."""
