"""Image captioners: models of transformers in this process, and OpenAI-compatible servers with vision models.

`captioner` chooses the class by the recipe's table `[caption]`. A new kind of captioner is one row there and one class.
"""
