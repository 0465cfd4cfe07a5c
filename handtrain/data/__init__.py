"""The published dataset and folders of images, read and cut into squares."""
