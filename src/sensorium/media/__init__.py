"""Bytes to arrays and back, one medium each, with limits; this room knows numpy and codecs, never torch."""
