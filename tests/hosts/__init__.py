"""Separate hosts on this machine, and the partitions between them."""
