"""Pictures as pixels: opened and converted in one place, their hands, and CLIP's view of them.

Imports the modules of `handdata/` itself.
"""
