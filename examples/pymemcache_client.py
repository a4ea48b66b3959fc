"""Two memcached clients, pymemcache and meta-memcache, talk to memcached-lite.

The server is written from memcached's protocol document. Whether it was read well is
for somebody else's client to say, one that has never heard of this server. pymemcache
speaks the classic commands, meta-memcache the meta commands and nothing else. Run it with

    make interop

or, where both are installed already (Python 3.9 or later), with one of

    python examples/pymemcache_client.py target/release/server
    python examples/pymemcache_client.py --against 127.0.0.1:11211

The first starts the server on an empty directory of its own, kills it, starts it again,
and leaves nothing behind. The second takes a server that runs, any memcached, and
leaves out the cases that kill it. IT REMOVES ALL THAT SERVER HOLDS.

Each function below "The cases" is a case, and shows how a part of the client is used.
It is given a client that waits for each answer, and a server that holds nothing. A case
prints one line: `ok`, or the line of this file that failed and what it got. The exit
code is 0 if every case holds, 2 if there was no server to try, else 1.
"""

import json
import re
import reprlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

try:
    from pymemcache import Client, HashClient, PooledClient
    from pymemcache.exceptions import (
        MemcacheClientError,
        MemcacheIllegalInputError,
        MemcacheServerError,
        MemcacheUnexpectedCloseError,
        MemcacheUnknownCommandError,
    )
    from pymemcache.serde import pickle_serde
    from meta_memcache import CacheClient, Key, SetMode, connection_pool_factory_builder
    from meta_memcache.configuration import LeasePolicy, RecachePolicy, ServerAddress
    from meta_memcache.configuration import StalePolicy
except ImportError:
    sys.exit("the clients are not installed here: try `make interop`")

THREE = {"name": b"John Doe", "city": b"Paris", "year": b"1984"}

# An answer that is late by so many seconds is an error, not a reason to hang.
TIMEOUT = 10

# Memcached's limit unless one is set: of the item, so of the key and some more, too.
MAX_ITEM_SIZE = 1 << 20


# What cases are made of.


class Differs(Exception):
    """An answer is not the expected one."""


def expect(got, wanted):
    if got != wanted:
        raise Differs(f"{reprlib.repr(got)}, not {reprlib.repr(wanted)}")


def expect_error(kind, call, *args, **options):
    try:
        got = call(*args, **options)
    except kind:
        return
    raise Differs(f"{reprlib.repr(got)}, not {kind.__name__}")


def another(client, kind=Client, **options):
    """One more client of the same server, as an application would make it."""
    return kind(client.server, timeout=TIMEOUT, **options)


def at_the_same_time(calls):
    """Makes each call in a thread of its own; returns their results in order."""
    # Without it the first thread may be done before the last has started.
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait(TIMEOUT)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def meta_client(client):
    """A client of the same server that speaks meta commands."""
    return CacheClient.cache_client_from_servers(
        servers=[ServerAddress(*client.server)],
        connection_pool_factory_fn=connection_pool_factory_builder(),
    )


def wait_until(holds):
    """Memcached's clock ticks once a second, so an expiry has no exact moment."""
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        if time.monotonic() > deadline:
            raise Differs(f"not so within {TIMEOUT} seconds")
        time.sleep(0.05)


class JsonSerde:
    """Stores any value as JSON. The flags say how to read it back."""

    TEXT, JSON = 1, 2

    def serialize(self, key, value):
        if isinstance(value, str):
            return value.encode(), self.TEXT
        return json.dumps(value).encode(), self.JSON

    def deserialize(self, key, value, flags):
        return json.loads(value) if flags == self.JSON else value.decode()


class FlagsShown:
    """Gives values as they are, each with the flags that came with it."""

    def serialize(self, key, value):
        return value, 0

    def deserialize(self, key, value, flags):
        return value, flags


# The cases.


def sets_of_three_keys(client):
    for key, value in THREE.items():
        expect(client.set(key, value), True)


def gets_of_three_keys(client):
    for key, value in THREE.items():
        client.set(key, value)
    for key, value in THREE.items():
        expect(client.get(key), value)
    expect(client.get("missing"), None)
    expect(client.get("missing", "a default"), "a default")


def three_sets_and_three_gets_at_the_same_time(client):
    client.set_many({key: b"old" for key in THREE})
    clients = [another(client, default_noreply=False) for _ in range(6)]
    sets = [
        lambda client=client, item=item: client.set(*item)
        for client, item in zip(clients[:3], THREE.items())
    ]
    gets = [
        lambda client=client, key=key: client.get(key)
        for client, key in zip(clients[3:], THREE)
    ]
    results = at_the_same_time(sets + gets)
    expect(results[:3], [True] * 3)
    # Who was first is open; a mixture of both values is not.
    for got, value in zip(results[3:], THREE.values()):
        expect(got in (b"old", value), True)
    expect(client.get_many(THREE), THREE)
    for each in clients:
        each.close()


def a_pool_is_shared_by_threads(client):
    pool = another(client, PooledClient, default_noreply=False, max_pool_size=6)

    def work(name):
        for value in (b"%d" % n for n in range(100)):
            pool.set(name, value)
            expect(pool.get(name), value)

    at_the_same_time([lambda n=n: work(f"thread{n}") for n in range(6)])
    pool.close()


def a_hash_client_is_content_with_one_server(client):
    hashed = HashClient([client.server], timeout=TIMEOUT, default_noreply=False)
    expect(hashed.set_many(THREE), [])
    expect(hashed.get_many(THREE), THREE)
    hashed.close()


def invalid_keys_are_refused_before_anything_is_sent(client):
    fresh = another(client)
    for key in ("two words", "a\r\nb", "tab\t", "nul\0", "é", "k" * 251):
        expect_error(MemcacheIllegalInputError, fresh.set, key, "v")
        expect_error(MemcacheIllegalInputError, fresh.get, key)
    # A client connects with the first thing that it sends.
    expect(fresh.sock, None)


def odd_keys_are_only_bytes_to_the_server(client):
    for key in ("@", "~!#$%^&*(){}[]", "noreply", "END", "k" * 250, "\x01", b"\xff"):
        expect(client.set(key, "v"), True)
        expect(client.get_many([key, "missing"]), {key: b"v"})
    unicode = another(client, allow_unicode_keys=True, default_noreply=False)
    expect(unicode.set("clé", "v"), True)
    expect(client.get("clé".encode()), b"v")
    unicode.close()


def an_empty_key_is_refused_by_the_server(client):
    # The one invalid key that pymemcache sends. The server takes the value for a
    # command, and answers twice; but after an error pymemcache closes the connection.
    expect_error(MemcacheClientError, client.set, "", "v")
    expect_error(MemcacheClientError, client.get, "")
    expect(client.set("k", "v"), True)
    # Such a line can't be read to its noreply. The next call gets its answer.
    default = another(client)
    expect(default.set("", "v"), True)
    expect_error(MemcacheClientError, default.get, "k")
    expect(default.get("k"), b"v")
    default.close()


def many_keys_in_one_request(client):
    many = {f"key{n}": b"%d" % n for n in range(1000)}
    expect(client.set_many(many), [])
    expect(client.get_many(list(many) + ["missing"]), many)
    expect(client.get_many([]), {})
    expect(client.delete_many(many), True)
    expect(client.get_many(many), {})


def noreply_is_the_default_and_keeps_the_order(client):
    # There is no answer to wait for, but requests of one connection are in order.
    default = another(client)
    expect(default.set("k", "1"), True)
    expect(default.get("k"), b"1")
    default.append("k", "2")
    default.prepend("k", "3")
    default.incr("k", 1, noreply=True)
    expect(default.get("k"), b"313")
    default.touch("k", 1000)
    default.delete("k")
    expect(default.get("k"), None)
    default.set_many(THREE)
    expect(default.get_many(THREE), THREE)
    default.flush_all()
    expect(default.get_many(THREE), {})
    default.close()


def noreply_is_silent_about_failures(client):
    # One answer too many, and each later request would get that of the one before.
    client.set("k", "v")
    client.add("k", "other", noreply=True)
    client.replace("missing", "v", noreply=True)
    client.append("missing", "v", noreply=True)
    client.cas("k", "other", 0, noreply=True)
    client.delete("missing", noreply=True)
    client.touch("missing", 1000, noreply=True)
    client.incr("missing", 1, noreply=True)
    expect(client.get("k"), b"v")
    expect(client.get("missing"), None)


def flags_come_back_as_they_were(client):
    shown = another(client, serde=FlagsShown(), default_noreply=False)
    for flags in (0, 1, 65535, 65536, 0xFFFF_FFFF):
        shown.set("k", "v", flags=flags)
        expect(shown.get("k"), (b"v", flags))
    shown.append("k", "w", flags=7)
    expect(shown.get("k"), (b"vw", 0xFFFF_FFFF))
    shown.close()


def a_serde_tells_its_values_apart_by_flags(client):
    for serde in (JsonSerde(), pickle_serde):
        typed = another(client, serde=serde, default_noreply=False)
        for value in ("text, clé", 42, [1, 2.5, None], {"a": {"b": True}}):
            typed.set("k", value)
            expect(typed.get("k"), value)
        typed.close()


def values_may_have_any_bytes(client):
    for value in (b"", b"\0", b"END\r\n", b"\r\n", bytes(range(256)) * 16):
        client.set("k", value)
        expect(client.get("k"), value)


def an_exptime_is_seconds_or_a_date(client):
    now = int(time.time())
    for key, expire in (("seconds", 1000), ("date", now + 1000), ("for ever", 0)):
        client.set(key.replace(" ", "-"), "v", expire=expire)
    for key, expire in (("negative", -1), ("past", now - 1000)):
        client.set(key, "v", expire=expire)
    client.set("soon", "v", expire=1)
    wait_until(lambda: client.get("soon") is None)
    there = client.get_many(["seconds", "date", "for-ever", "negative", "past"])
    expect(sorted(there), ["date", "for-ever", "seconds"])


def touch_changes_the_exptime_only(client):
    client.set_many(THREE)
    expect(client.touch("name", -1), True)
    expect(client.touch("city", 1000), True)
    expect(client.touch("missing", 1000), False)
    expect(client.get_many(THREE), {"city": b"Paris", "year": b"1984"})


def cas_stores_only_what_nobody_has_changed(client):
    client.set("k", "old")
    value, unique = client.gets("k")
    expect(value, b"old")
    expect(client.cas("k", "new", unique), True)
    expect(client.cas("k", "newer", unique), False)
    expect(client.cas("missing", "v", unique), None)
    expect(client.get("k"), b"new")
    expect(client.gets("missing"), (None, None))
    expect(client.gets_many(["k", "missing"])["k"][0], b"new")


def of_six_cas_at_the_same_time_one_wins(client):
    client.set("k", "old")
    unique = client.gets("k")[1]
    clients = [another(client) for _ in range(6)]
    results = at_the_same_time(
        [lambda client=client: client.cas("k", "new", unique) for client in clients]
    )
    expect(sorted(results), [False] * 5 + [True])
    for each in clients:
        each.close()


def add_and_replace_look_whether_there_is_one(client):
    expect(client.replace("k", "v"), False)
    expect(client.add("k", "v"), True)
    expect(client.add("k", "other"), False)
    expect(client.get("k"), b"v")
    expect(client.replace("k", "other"), True)
    expect(client.get("k"), b"other")


def append_and_prepend_keep_what_is_there(client):
    expect(client.append("k", "v"), False)
    expect(client.prepend("k", "v"), False)
    client.set("k", "b")
    expect(client.append("k", "c"), True)
    expect(client.prepend("k", "a"), True)
    expect(client.get("k"), b"abc")


def incr_wraps_and_decr_stops_at_zero(client):
    client.set("n", "9")
    expect(client.incr("n", 1), 10)
    expect(client.get("n"), b"10")
    expect(client.decr("n", 3), 7)
    # A number keeps its width when it loses digits, as in memcached.
    expect(client.get("n"), b"7 ")
    expect(client.decr("n", 100), 0)
    client.set("n", str(2**64 - 1))
    expect(client.incr("n", 2), 1)
    expect(client.incr("missing", 1), None)
    client.set("n", "no number")
    expect_error(MemcacheClientError, client.incr, "n", 1)


def no_increment_is_lost(client):
    client.set("n", "0")
    pool = another(client, PooledClient)

    def count():
        for _ in range(200):
            pool.incr("n", 1)

    at_the_same_time([count] * 6)
    expect(client.get("n"), b"1200")
    pool.close()


def delete_removes_one_key(client):
    client.set_many(THREE)
    expect(client.delete("city"), True)
    expect(client.delete("city"), False)
    expect(sorted(client.get_many(THREE)), ["name", "year"])


def a_value_of_almost_a_mebibyte(client):
    value = bytes(range(256)) * 4092
    expect(len(value), MAX_ITEM_SIZE - 1024)
    expect(client.set("k", value), True)
    expect(client.get("k") == value, True)


def a_value_that_is_too_large(client):
    value = b"x" * (MAX_ITEM_SIZE + 1)
    expect_error(MemcacheServerError, client.set, "k", value)
    # Without an answer, pymemcache keeps the connection: the server has to skip the
    # value, or would take it for commands.
    client.set("k", value, noreply=True)
    expect(client.get("k"), None)
    expect(client.set("k", "small"), True)


def stats_count_what_was_asked(client):
    client.set("k", "v")
    before = client.stats()
    client.get_many(["k", "missing", "missing-too"])
    after = client.stats()
    expect(after[b"pid"] > 0, True)
    expect(after[b"curr_connections"] > 0, True)
    for name, more in ((b"cmd_get", 3), (b"get_hits", 1), (b"get_misses", 2)):
        expect((name, after[name] - before[name]), (name, more))
    expect(client.stats("settings")[b"item_size_max"], MAX_ITEM_SIZE)


def the_version_has_three_parts(client):
    expect(re.fullmatch(rb"\d+\.\d+\.\d+", client.version()) is not None, True)


def flush_all_removes_everything(client):
    client.set_many(THREE)
    expect(client.flush_all(), True)
    expect(client.get_many(THREE), {})
    expect(client.add("name", "Jane Doe"), True)
    expect(client.get("name"), b"Jane Doe")


def quit_ends_a_connection(client):
    client.set("k", "v")
    client.quit()
    expect(client.sock, None)
    # The next call connects again.
    expect(client.get("k"), b"v")


def commands_that_have_no_method(client):
    client.set("k", "v")
    got = client.raw_command("gat -1 k", end_tokens="END\r\n")
    expect(got, b"VALUE k 0 1\r\nv\r\n")
    expect(client.get("k"), None)
    expect(client.raw_command("verbosity 0"), b"OK")
    expect_error(MemcacheUnknownCommandError, client.raw_command, "nonsense")


def meta_commands_have_no_method_either(client):
    def raw(line):
        return client.raw_command(line)

    client.set("k", "abc")
    expect(raw("mg k s t"), b"HD s3 t-1")
    expect(client.raw_command("mg k v k O7", end_tokens="abc\r\n"), b"VA 3 kk O7\r\n")
    expect(raw("mg missing O7"), b"EN O7")
    expect(raw("ms k 2 F9 T100\r\nde"), b"HD")
    expect(client.get("k"), b"de")
    expect(raw("ms k 1 ME\r\nx"), b"NS")
    expect(raw("ma missing"), b"NF")
    expect(raw("ma n N0 J41"), b"HD")
    expect(client.incr("n", 1), 42)
    expect(raw("md k I"), b"HD")
    expect(raw("mg k"), b"HD X W")
    expect(raw("mg k"), b"HD Z X")
    expect(raw("md k q\r\nmn"), b"MN")
    expect(client.get("k"), None)


def a_meta_only_client_stores_and_reads(client):
    meta = meta_client(client)
    expect(meta.set("name", "John Doe", ttl=1000), True)
    expect(meta.get("name"), "John Doe")
    expect(meta.set("name", "Jane Doe", ttl=1000, set_mode=SetMode.ADD), False)
    expect(meta.multi_get([Key("name"), Key("missing")])[Key("name")], "John Doe")
    expect(meta.touch("name", ttl=100), True)
    expect(meta.delete("name"), True)
    expect(meta.get("name"), None)
    # It sends keys with spaces and letters beyond ASCII in base64.
    expect(meta.set(Key("clé à molette"), [1, {"a": 2}], ttl=0), True)
    expect(meta.get(Key("clé à molette")), [1, {"a": 2}])


def a_meta_only_client_counts_and_compares(client):
    meta = meta_client(client)
    expect(meta.delta_initialize_and_get("n", 5, initial_value=10, initial_ttl=0), 10)
    expect(meta.delta_and_get("n", 5), 15)
    expect(meta.delta_and_get("n", -5), 10)
    expect(meta.delta("missing", 1), False)
    value, unique = meta.get_cas("n")
    expect(int(value), 10)
    expect(meta.set("n", 7, ttl=0, cas_token=unique + 1), False)
    expect(meta.set("n", 7, ttl=0, cas_token=unique), True)
    expect(meta.get("n"), 7)


def of_many_that_miss_one_gets_the_lease(client):
    lease = LeasePolicy(ttl=60, miss_retries=1, miss_retry_wait=0.01)
    clients = [meta_client(client) for _ in range(2)]
    expect(clients[0].get_or_lease("k", lease_policy=lease), None)
    expect(client.raw_command("mg k"), b"HD Z")
    expect(clients[0].set("k", "computed", ttl=1000), True)
    expect(clients[1].get_or_lease("k", lease_policy=lease), "computed")


def of_many_that_read_a_stale_value_one_is_to_recompute(client):
    meta = meta_client(client)
    policy, recache = StalePolicy(mark_stale_on_deletion_ttl=60), RecachePolicy(ttl=30)
    expect(meta.set("k", "old", ttl=1000), True)
    expect(meta.invalidate("k", stale_policy=policy), True)
    # The winner takes it for a miss, and computes. The others get the old value.
    expect(meta.get("k", recache_policy=recache), None)
    expect(meta.get("k", recache_policy=recache), "old")
    expect(meta.set("k", "new", ttl=1000), True)
    expect(meta.get("k", recache_policy=recache), "new")


CASES = [
    sets_of_three_keys,
    gets_of_three_keys,
    three_sets_and_three_gets_at_the_same_time,
    a_pool_is_shared_by_threads,
    a_hash_client_is_content_with_one_server,
    invalid_keys_are_refused_before_anything_is_sent,
    odd_keys_are_only_bytes_to_the_server,
    an_empty_key_is_refused_by_the_server,
    many_keys_in_one_request,
    noreply_is_the_default_and_keeps_the_order,
    noreply_is_silent_about_failures,
    flags_come_back_as_they_were,
    a_serde_tells_its_values_apart_by_flags,
    values_may_have_any_bytes,
    an_exptime_is_seconds_or_a_date,
    touch_changes_the_exptime_only,
    cas_stores_only_what_nobody_has_changed,
    of_six_cas_at_the_same_time_one_wins,
    add_and_replace_look_whether_there_is_one,
    append_and_prepend_keep_what_is_there,
    incr_wraps_and_decr_stops_at_zero,
    no_increment_is_lost,
    delete_removes_one_key,
    a_value_of_almost_a_mebibyte,
    a_value_that_is_too_large,
    stats_count_what_was_asked,
    the_version_has_three_parts,
    flush_all_removes_everything,
    quit_ends_a_connection,
    commands_that_have_no_method,
    meta_commands_have_no_method_either,
    a_meta_only_client_stores_and_reads,
    a_meta_only_client_counts_and_compares,
    of_many_that_miss_one_gets_the_lease,
    of_many_that_read_a_stale_value_one_is_to_recompute,
]


# The cases that kill the server. No cache passes them.


def data_outlives_a_kill(client, server):
    shown = another(client, serde=FlagsShown(), default_noreply=False)
    shown.set("k", "v", flags=7, expire=1000)
    client.set("n", "41")
    client.incr("n", 1)
    client.set("gone", "v")
    client.delete("gone")
    client.set("past", "v", expire=-1)
    server.kill()
    server.start()
    # A client learns of the new server by an error of the old connection.
    expect_error((OSError, MemcacheUnexpectedCloseError), client.get, "n")
    expect(client.get_many(["n", "gone", "past"]), {"n": b"42"})
    shown.close()
    expect(shown.get("k"), (b"v", 7))
    shown.close()


def what_was_sent_with_noreply_outlives_a_kill_once_it_was_read(client, server):
    # No answer, no promise. But a get that sees the value is answered only after the
    # value is on the disk.
    # Values of its own: those of a case before it may still be on the disk.
    items = {"read-1": b"1", "read-2": b"2", "read-3": b"3"}
    client.set_many(items, noreply=True)
    expect(client.get_many(items), items)
    server.kill()
    server.start()
    client.close()
    expect(client.get_many(items), items)


def a_unique_of_before_the_kill_holds_no_longer_than_its_item(client, server):
    client.set_many(THREE)
    uniques = {key: unique for key, (_, unique) in client.gets_many(THREE).items()}
    client.set("city", "Rome")
    server.kill()
    server.start()
    client.close()
    expect(client.cas("city", "Oslo", uniques["city"]), False)
    expect(client.get("city"), b"Rome")


def what_was_acknowledged_outlives_a_kill_amid_writes(client, server):
    acknowledged = [0] * 3
    many = threading.Event()

    def write(name):
        own = another(client, default_noreply=False)
        try:
            while True:
                own.set(f"{name}-{acknowledged[name]}", "v")
                acknowledged[name] += 1
                if min(acknowledged) >= 100:
                    many.set()
        except (OSError, MemcacheUnexpectedCloseError):
            own.close()

    with ThreadPoolExecutor(3) as threads:
        ends = [threads.submit(write, name) for name in range(3)]
        came = many.wait(TIMEOUT)
        server.kill()
    for end in ends:
        end.result()
    expect(came, True)
    server.start()
    client.close()
    for name, count in enumerate(acknowledged):
        keys = [f"{name}-{n}" for n in range(count)]
        expect(len(client.get_many(keys)), count)


def three_servers_of_a_hash_client_keep_their_keys(client, server):
    """The client hashes each key to one of the servers; prints what three are worth."""
    with tempfile.TemporaryDirectory(prefix="memcached-lite-") as data:
        servers = [Server(server.binary, f"{data}/{number}") for number in range(3)]
        try:
            for one in servers:
                one.start()
            places = [("127.0.0.1", one.port) for one in servers]
            options = {"default_noreply": False, "timeout": TIMEOUT, "ignore_exc": True}
            three = HashClient(places, retry_attempts=0, dead_timeout=0, **options)
            figures = [keys_a_second(three), keys_a_second(HashClient(places[:1], **options))]
            print("%d keys a second on three servers, %d on one" % tuple(figures))

            values = {f"key-{n}": f"{n}".encode() for n in range(300)}
            expect(three.set_many(values), [])
            owners = [len(Client(it).get_many(list(values))) for it in places]
            expect((sum(owners) >= 300, min(owners) > 0), (True, True))
            servers[1].kill()
            left = three.get_many(list(values))
            expect(0 < len(left) < 300, True)
            servers[1].start()
            wait_until(lambda: three.get_many(list(values)) == values)
        finally:
            for one in servers:
                if one.process:
                    one.kill()


def keys_a_second(client):
    """Sets and gets keys one by one."""
    begun, keys = time.monotonic(), [f"key-{n}" for n in range(1000)]
    for key in keys:
        expect(client.set(key, "v"), True)
        expect(client.get(key), b"v")
    return 2 * len(keys) / (time.monotonic() - begun)


def a_kill_makes_no_stale_value_good_and_hands_out_no_second_win(client, server):
    client.set("k", "old")
    expect(client.raw_command("md k I"), b"HD")
    expect(client.raw_command("mg k"), b"HD X W")
    client.set("other", "old")
    expect(client.raw_command("md other I"), b"HD")
    server.kill()
    server.start()
    client.close()
    expect(client.raw_command("mg k"), b"HD Z X")
    expect(client.raw_command("mg other"), b"HD X W")


CASES_THAT_KILL = [
    data_outlives_a_kill,
    three_servers_of_a_hash_client_keep_their_keys,
    what_was_sent_with_noreply_outlives_a_kill_once_it_was_read,
    a_unique_of_before_the_kill_holds_no_longer_than_its_item,
    what_was_acknowledged_outlives_a_kill_amid_writes,
    a_kill_makes_no_stale_value_good_and_hands_out_no_second_win,
]


# Servers, and the order of things.


class NoServer(Exception):
    """There is no server to try."""


class Server:
    """A server of our own; it keeps its data and its port when it is started anew."""

    def __init__(self, binary, data):
        self.binary = binary
        self.data = data
        self.port = 0
        self.process = None

    def start(self):
        command = [self.binary, "--listen", "127.0.0.1", "--port", str(self.port)]
        # Should this script itself be killed, its server won't stay for ever.
        command += ["--data", self.data, "--idle-exit", "60"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise NoServer(f"{self.binary}: {error.strerror}") from error
        line = self.process.stdout.readline()
        ready = re.match(r"Server: Listening on 127\.0\.0\.1:(\d+)\.\.\.", line)
        if not ready:
            raise NoServer(f"{self.binary} did not start; its first line: {line!r}")
        self.port = int(ready[1])

    def kill(self):
        """As `kill -9`: the server learns nothing of it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def where(error):
    """The line of a case that raised an error, or of this file if it was in no case."""
    checks = ("expect", "expect_error", "wait_until")
    here = where.__code__.co_filename
    frames = traceback.extract_tb(error.__traceback__)
    places = [at for at in frames if at.filename == here and at.name not in checks]
    return f"line {places[-1].lineno}: {places[-1].line}"


def run(case, address, *more):
    """Runs a case on an empty server; returns whether it holds."""
    name = case.__name__.replace("_", " ")
    client = Client(address, timeout=TIMEOUT, default_noreply=False)
    try:
        client.flush_all()
        case(client, *more)
    except Exception as error:
        print(f"{name}: {where(error)}: {type(error).__name__}: {error}")
        return False
    finally:
        client.close()
    print(f"{name}: ok")
    return True


def summary(results):
    print(f"{results.count(True)} cases hold", end="")
    print("" if all(results) else f", {results.count(False)} do not")
    return 0 if all(results) else 1


def against(place):
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        raise NoServer(f"--against takes HOST:PORT, not {place}")
    address = (host, int(port))
    try:
        Client(address, timeout=TIMEOUT).version()
    except OSError as error:
        raise NoServer(f"nobody answers at {place}: {error}") from error
    return summary([run(case, address) for case in CASES])


def with_own_server(binary):
    with tempfile.TemporaryDirectory(prefix="memcached-lite-") as data:
        server = Server(binary, data)
        try:
            server.start()
            address = ("127.0.0.1", server.port)
            results = [run(case, address) for case in CASES]
            results += [run(case, address, server) for case in CASES_THAT_KILL]
        finally:
            if server.process:
                server.kill()
    return summary(results)


def main(words):
    try:
        if len(words) == 2 and words[0] == "--against":
            return against(words[1])
        if len(words) == 1 and not words[0].startswith("-"):
            return with_own_server(words[0])
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    usage = "usage: pymemcache_client.py SERVER_BINARY | --against HOST:PORT"
    print(usage, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
