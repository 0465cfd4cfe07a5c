"""The published dataset and folders of images, and their crops. Imports handdata's ground modules only."""
