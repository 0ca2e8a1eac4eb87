"""`python -m convlstm`, the same as the `convlstm` command."""

from convlstm.cli.main import main

main()
