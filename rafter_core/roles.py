"""The roles of a replica (Raft paper, figure 4; thesis 9.6 for the pre-candidate)."""

from enum import IntEnum


class Role(IntEnum):
    """What a replica is in its term. The numbers are etcd's."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


FOLLOWER = Role.FOLLOWER
CANDIDATE = Role.CANDIDATE
LEADER = Role.LEADER
PRE_CANDIDATE = Role.PRE_CANDIDATE
