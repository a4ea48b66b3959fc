"""Three servers and Debian's nutcracker (twemproxy) in front of them: `make cluster`.

Kills one server while keys are being set, starts it again, and checks that nothing that was
acknowledged is lost, and that the keys of the other two went on. Then the driver plays the
scenarios that a proxy allows.
"""

import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The others start servers themselves, or send what nutcracker has no words for.
SCENARIOS = (1, 2, 4, 5, 6, 9, 10, 11, 12, 13)


class Server:
    """One server, at the same port and on the same data in each of its lives."""

    def __init__(self, programs, data):
        self.programs, self.data, self.port = programs, data, "0"
        self.start()

    def start(self):
        command = [self.programs / "server", "--port", self.port, "--data", self.data]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = re.search(r":(\d+)\.\.\.", line).group(1)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Client:
    """A connection that answers None where the proxy says that a server is gone."""

    def __init__(self, port):
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.lines = self.stream.makefile("rb")

    def set(self, key, value):
        self.stream.sendall(f"set {key} 0 0 {len(value)}\r\n{value}\r\n".encode())
        return self.lines.readline() == b"STORED\r\n"

    def get(self, key):
        self.stream.sendall(f"get {key}\r\n".encode())
        line = self.lines.readline()
        if not line.startswith(b"VALUE"):
            return None
        value = self.lines.readline().strip().decode()
        assert self.lines.readline() == b"END\r\n"
        return value


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def main(programs):
    nutcracker = shutil.which("nutcracker") or shutil.which("nutcracker", path="/usr/sbin")
    if nutcracker is None:
        sys.exit("make cluster needs nutcracker: apt-get install nutcracker")
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        servers = [Server(programs, directory / f"{number}") for number in (1, 2, 3)]
        port, stats = free_port(), free_port()
        text = (ROOT / "examples/deploy/nutcracker.yml").read_text()
        text = text.replace("22121", str(port))
        for number, server in zip((1, 2, 3), servers):
            text = text.replace(f"1122{number}:", f"{server.port}:")
        config = directory / "nutcracker.yml"
        config.write_text(text)
        command = [nutcracker, "-c", config, "-a", "127.0.0.1", "-s", str(stats)]
        command += ["-o", directory / "log"]
        proxy = subprocess.Popen(command)
        try:
            check(servers, port)
            play(programs, servers, port)
        finally:
            proxy.kill()
            for server in servers:
                server.kill()


def connect(port):
    """The proxy needs a moment before it listens."""
    deadline = time.time() + 10
    while True:
        try:
            return Client(port)
        except OSError:
            if time.time() > deadline:
                raise
            time.sleep(0.05)


def check(servers, port):
    client = connect(port)
    values, lost = {}, 0
    for number in range(3000):
        if number == 1000:
            servers[1].kill()
        if number == 2000:
            servers[1].start()
            # The proxy tries again after a pause of its own.
            deadline = time.time() + 10
            while any(client.get(key) is None for key in values):
                assert time.time() < deadline, "a server that is back is not used"
                time.sleep(0.05)
        if client.set(f"key-{number}", str(number)):
            values[f"key-{number}"] = str(number)
        else:
            lost += 1
    wrong = [key for key, value in values.items() if client.get(key) != value]
    assert not wrong, f"{len(wrong)} acknowledged values are lost: {wrong[:5]}"
    during = sum(1000 <= int(key.split("-")[1]) < 2000 for key in values)
    assert during > 300, "the keys of the other servers did not go on"
    print(f"{len(values)} values acknowledged, none lost;", end=" ")
    print(f"{during} of 1000 while a server was dead, {lost} sets refused")


def play(programs, servers, port):
    for number in SCENARIOS:
        # Each begins with nothing. The proxy can't say that.
        for server in servers:
            with socket.create_connection(("127.0.0.1", int(server.port))) as stream:
                stream.sendall(b"flush_all\r\n")
                assert stream.recv(4) == b"OK\r\n"
        command = [programs / "driver", "--against", f"127.0.0.1:{port}"]
        played = subprocess.run([*command, "--test", str(number)], capture_output=True)
        assert played.returncode == 0, played.stdout.decode()
    print(f"scenarios {', '.join(map(str, SCENARIOS))}: ok")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
