"""The embedded default: a labelled world written by a grammar, a parser for it, a small chat model trained on it."""
