"""Vocabulary and run directories. Knows nothing about models: no module here imports torch."""
