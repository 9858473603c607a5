"""What a user of pyxs does. The argument: the daemon's socket."""

import errno
import sys

from pyxs import Client, PyXSError


def refused(errno_expected, call, *args):
    try:
        call(*args)
    except PyXSError as error:
        assert error.args[0] == errno_expected, error
    else:
        raise AssertionError(f"{call} {args} was not refused")


def nodes(client):
    client.write(b"/py/a", b"one")
    client[b"/py/b"] = b"two"
    assert client.read(b"/py/a") == b"one"
    assert client[b"/py/b"] == b"two"
    assert client.read(b"/py/none", b"a default") == b"a default"
    refused(errno.ENOENT, client.read, b"/py/none")
    client.mkdir(b"/py/c/d")
    client.mkdir(b"/py/c/d")
    assert client.list(b"/py") == [b"a", b"b", b"c"]
    assert client.list(b"/py/a") == []
    assert client.exists(b"/py/c/d") and not client.exists(b"/py/c/e")
    tree = {path: (value, children) for path, value, children in client.walk(b"/py")}
    assert tree[b"/py/a"] == (b"one", []), tree
    assert tree[b"/py/c"] == (b"", [b"d"]), tree
    assert len(tree) == 5, tree
    client.delete(b"/py/c")
    client.delete(b"/py/c")
    refused(errno.ENOENT, client.delete, b"/py/none/below")
    assert not client.exists(b"/py/c/d")


def permissions(client):
    client.set_perms(b"/py/a", [b"n7", b"r8"])
    assert client.get_perms(b"/py/a") == [b"n7", b"r8"]
    refused(errno.ENOENT, client.get_perms, b"/py/none")


def domains(client):
    assert client.get_domain_path(7) == b"/local/domain/7"
    assert client.is_domain_introduced(7)
    assert not client.is_domain_introduced(9)


def transactions(socket, client):
    client.transaction()
    refused(errno.EALREADY, client.transaction)
    client.write(b"/py/t", b"inside")
    with Client(unix_socket_path=socket) as other:
        assert not other.exists(b"/py/t")
        assert client.commit()
        assert other.read(b"/py/t") == b"inside"

        client.transaction()
        client.write(b"/py/t", b"never")
        client.rollback()
        assert client.read(b"/py/t") == b"inside"

        client.transaction()
        client.read(b"/py/t")
        client.write(b"/py/t", b"late")
        other.write(b"/py/t", b"in the way")
        assert not client.commit()
        assert client.read(b"/py/t") == b"in the way"


def watches(socket, client):
    with client.monitor() as monitor:
        monitor.watch(b"/py/w", b"token")
        events = monitor.wait()
        with Client(unix_socket_path=socket) as other:
            # The one that every watch fires.
            assert next(events) == (b"/py/w", b"token")
            other.write(b"/py/w/below", b"1")
            assert next(events) == (b"/py/w/below", b"token")
            other.delete(b"/py/w")
            assert next(events) == (b"/py/w", b"token")
            monitor.unwatch(b"/py/w", b"token")
            other.write(b"/py/w", b"unseen")
            # Had the write been heard of, it would come before this.
            monitor.watch(b"/py/v", b"another")
            assert next(monitor.wait()) == (b"/py/v", b"another")
        refused(errno.EEXIST, monitor.watch, b"/py/v", b"another")
        refused(errno.ENOENT, monitor.unwatch, b"/py/none", b"token")


def main(socket):
    with Client(unix_socket_path=socket) as client:
        nodes(client)
        permissions(client)
        domains(client)
        transactions(socket, client)
        watches(socket, client)
        client.delete(b"/py")
    print("all as it must be")


main(sys.argv[1])
