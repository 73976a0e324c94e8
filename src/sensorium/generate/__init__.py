"""Answers: text, pictures and sounds from a trained model."""
