"""The one transformer, with the ways in and out of it."""
