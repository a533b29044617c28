from rafter_kv.data_commands import DATA_COMMANDS
from rafter_kv.server_commands import SERVER_COMMANDS


def test_the_tables_do_not_overlap() -> None:
    assert not DATA_COMMANDS.keys() & SERVER_COMMANDS.keys()


def test_what_clients_send_at_connect_is_there() -> None:
    wanted = "HELLO CLIENT COMMAND INFO CLUSTER CONFIG PING AUTH SELECT QUIT RESET READONLY ECHO"
    assert {name.encode() for name in wanted.split()} <= SERVER_COMMANDS.keys()
