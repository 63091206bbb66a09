"""Classify images with a trained run."""
