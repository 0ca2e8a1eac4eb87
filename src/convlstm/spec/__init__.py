"""Options of layers, stacks and forecasters, read into one strict form and checked before anything is allocated."""
