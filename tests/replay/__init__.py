"""Replays transcripts: text files of commands and their expected output, in etcd's own format.

`python -m tests.replay PATH...` runs every *.txt at the paths against `rafter_core` and compares
byte for byte. Three kinds of file exist, told apart by the commands in them:

- interaction: whole nodes, their storage and the messages between them, one step at a time;
- confchange: the algebra of memberships;
- quorum: the arithmetic of majorities.

etcd's own files pass unchanged. `transcripts/` holds ours, for what etcd's files never exercise.
"""
