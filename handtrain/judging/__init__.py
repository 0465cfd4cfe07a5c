"""Judges of the hands in any folder of images, and their report; may import the trainer's evaluation and reporting."""
