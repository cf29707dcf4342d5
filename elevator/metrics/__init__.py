"""What `elevator evaluate` computes."""
