"""`python -m rafterd` is `rafterd`."""

from rafterd.main import main

if __name__ == "__main__":
    main(prog_name="rafterd")
