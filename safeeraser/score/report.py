"""`python -m safeeraser.score.report`: the command's earlier name, which scripts of others may still use."""

from safeeraser.report.__main__ import main

if __name__ == "__main__":
    main()
