"""Operations, receptive field and memory of a model, from its spec alone."""
