"""The app of a Hugging Face Space: the page of `handtrain app`, with the models that the Space's variables name."""

import os

from handtrain.app.models import Models
from handtrain.app.page import serve
from handtrain.app.rows import Rows

model, dataset = os.environ.get("MODEL"), os.environ.get("DATASET")
serve(
    Models(model, os.environ.get("BASE")) if model else None,
    Rows(dataset) if dataset else None,
    host="0.0.0.0",  # noqa: S104 - a Space is a container behind a proxy
    port=int(os.environ.get("PORT", "7860")),
    show=False,
)
