"""Time and memory beside every peer that is installed, side by side in one run (`convlstm bench`)."""
