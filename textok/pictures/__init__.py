"""Pictures: prepared for a model, put on sheets, drawn as plots."""
