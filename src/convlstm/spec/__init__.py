"""Options of layers, stacks and forecasters, normalised and checked before any memory is allocated."""
