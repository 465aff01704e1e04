"""What goes over SSH: `ssh -L`, and our fallbacks."""

import getpass
import os
import subprocess

from bootstrap import Bootstrap
from pair import Peer, free_port


class SSH(Peer):
    """`ssh -L` to an sshd of its own, with the cipher that both choose by themselves."""

    name = "ssh -L"
    options = []
    can_be_distant = True
    measures_long_many = True

    def start_server(self):
        """An sshd, and the keys that it takes; returns the port by which a client reaches it."""
        tunnel = free_port()
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(self.directory, name)],
                           check=True)
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        configuration = self.write("sshd_config", f"""\
ListenAddress 127.0.0.1:{tunnel}
HostKey {self.directory}/host_key
AuthorizedKeysFile {self.directory}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
""")
        self.spawn(["/usr/sbin/sshd", "-D", "-e", "-f", configuration], tunnel)
        port = self.reach(tunnel)
        with open(os.path.join(self.directory, "host_key.pub")) as key:
            self.write("known_hosts", f"[127.0.0.1]:{port} {key.read()}")
        return port

    def start(self):
        self.port = free_port()
        port = self.start_server()
        self.spawn(["ssh", "-F", "none", "-N", "-i", f"{self.directory}/user_key", "-p", str(port),
                    "-o", f"UserKnownHostsFile={self.directory}/known_hosts",
                    "-o", "ExitOnForwardFailure=yes", "-o", "IdentitiesOnly=yes", *self.options,
                    "-L", f"127.0.0.1:{self.port}:127.0.0.1:{self.target}", f"{getpass.getuser()}@127.0.0.1"],
                   self.port)
        self.processes.reverse()


class SSHAESGCM(SSH):
    name = "ssh -L, aes128-gcm"
    options = ["-c", "aes128-gcm@openssh.com"]


class BootstrapSSH(SSH):
    """The fallback without an agent: `connect --path ssh`, each connection a channel of an SSH session."""

    name = "bootstrap, ssh"
    more = []

    def start(self):
        self.port = free_port()
        port = self.start_server()
        self.spawn([Bootstrap.binary, "connect", f"{getpass.getuser()}@127.0.0.1", "--path", "ssh", "-F", "none", *self.more,
                    "-i", f"{self.directory}/user_key", "-p", str(port),
                    "-o", f"UserKnownHostsFile={self.directory}/known_hosts",
                    "-L", f"127.0.0.1:{self.port}:127.0.0.1:{self.target}"], self.port)
        self.processes.reverse()


class BootstrapSSHEngine(BootstrapSSH):
    """The same, by the user's own ssh from the first stream on."""

    name = "bootstrap, ssh engine"
    more = ["--ssh-engine", "openssh"]


class BootstrapSSHLibrary(BootstrapSSH):
    """The same, by libssh2 alone."""

    name = "bootstrap, libssh2 engine"
    more = ["--ssh-engine", "libssh2"]


class BootstrapOverSSH(SSH, Bootstrap):
    """The fallback with an agent: mutual TLS and HTTP/2 inside of SSH, between two nodes."""

    name = "bootstrap, h2-over-ssh"

    def start(self):
        tunnel = free_port()
        self.port = free_port()
        self.start_node_server(tunnel)
        port = self.start_server()
        self.start_node_client([
            *self.way(tunnel), "path: h2-over-ssh",
            f'ssh: {{destination: "{getpass.getuser()}@127.0.0.1:{port}", identityFile: {self.directory}/user_key, '
            f"knownHosts: {self.directory}/known_hosts}}"])
        self.processes.reverse()
