"""The app in the browser: models side by side, hands of a picture, rows of a dataset. Only `cli` imports it."""
