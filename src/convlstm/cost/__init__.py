"""Operations, receptive field and memory of a model, computed from its spec."""
