"""Baths: kernels that move one walker and account for its heat and work."""
