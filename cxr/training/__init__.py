"""Trains a network on a converted set and publishes the run folder."""
