"""Prepared data of the trainer, read as states and histories of users."""
