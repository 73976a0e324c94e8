"""Peers: what others would pick instead, each in one file, and the work that all are given."""
