"""Videos to files, and back to how they were made."""
