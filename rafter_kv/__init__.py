"""The key-value server over rafter: state machine, RESP front end, client and ``rafter-cli``.

``machine.KeyValueMachine`` is the replicated state machine; it and what it uses import nothing but
``rafter_core``. ``connection.RespConnection`` speaks RESP to clients on top of a router that the
server hands in. Modules are imported by name: the state machine does not pull in the protocol.
"""
