"""Train the mini models on the mini world: a BLIP that captions it and a Stable Diffusion that draws it.

`python -m handtrain.mini --out FOLDER` draws the pictures, trains, and writes both models. Imports `data`, `method`,
`model` and `run`, and handdata's `world` and `texts.captioner`.
"""
