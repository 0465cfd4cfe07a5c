"""The paper's method: gesture feature, fusion, noise-prediction loss, embeddings, UNet. Imports `data`."""
