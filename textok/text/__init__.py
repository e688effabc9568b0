"""Captions and what is made of them: templates, stores of captions and of embeddings, encoders."""
