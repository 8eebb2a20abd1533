"""edgelm: language models that are proven to fit a phone."""
