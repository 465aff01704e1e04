#!/usr/bin/env python3
"""Measures bootstrap against the tools that people use on a fleet, on loopback, in interleaved rounds.

    Benchmarks/fleet.py [--binary PATH] [--agent PATH] [--hosts N] [--names N] [--parallel N] [--rounds N] [--many N] [--no-write]

enrolment   N hosts, each an sshd of its own with a home directory of its own and default limits: make a key and a signing request there,
            sign it here, push certificate and bundle, start a service that uses them. Once with the service's program there already
            (bootstrap: its agent, after `unenroll --keep-agent`; Ansible: `openssl s_server`), once with bootstrap's agent uploaded first,
            by either tool.
command     N names of one sshd with default limits: run `uname -sm`, push 1 MiB, fetch it back; one process for all of them.
many        N names of ten sshds are enrolled without an agent by one process: its memory must not grow with their number.

Results: the key "fleet" of Benchmarks/results.json and a table of docs/benchmarks.md.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- fleet: begin (written by make bench-fleet) -->", "<!-- fleet: end -->"
MIB = 1 << 20


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Servers:
    """sshds on loopback, each with its own home directory; ends those that it started."""

    def __init__(self, directory, count):
        self.directory, self.processes, self.homes, self.ports = directory, [], [], []
        self.key = f"{directory}/id"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        self.known_hosts = f"{directory}/known_hosts"
        for index in range(count):
            # Each its own, as machines have it: one that shows the key of another is not enrolled.
            host_key = f"{directory}/host{index}"
            run("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", host_key)
            with open(host_key + ".pub") as public:
                key = " ".join(public.read().split()[:2])
            home = f"{directory}/home{index}"
            os.makedirs(home, mode=0o700)
            port = free_port()
            configuration = f"{directory}/sshd{index}.conf"
            with open(configuration, "w") as file:
                # Nothing about MaxStartups or MaxSessions: the defaults are what a fleet has.
                file.write(f"""Port {port}
ListenAddress 127.0.0.1
HostKey {host_key}
AuthorizedKeysFile {self.key}.pub
PidFile none
UsePAM no
StrictModes no
SetEnv HOME={home}
Subsystem sftp internal-sftp
LogLevel ERROR
""")
            self.processes.append(subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", configuration],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            self.homes.append(home)
            self.ports.append(port)
            with open(self.known_hosts, "a") as known:
                known.write(f"[127.0.0.1]:{port} {key}\n")
        for port in self.ports:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                raise SystemExit("sshd does not start")

    def close(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


def timed(command, environment, log):
    """Seconds, and the peak resident bytes of the process and those it waited for."""
    start = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status != 0:
        with open(log, errors="replace") as output:
            raise SystemExit(f"{' '.join(command[:3])}… failed:\n" + "".join(output.readlines()[-30:]))
    return seconds, usage.ru_maxrss * 1024


def end_processes(servers, file_names):
    """Ends the services that a round has started: their numbers are in files in the homes."""
    for home in servers.homes:
        for root, _, files in os.walk(home):
            for name in files:
                if name in file_names:
                    try:
                        with open(os.path.join(root, name)) as file:
                            os.kill(int(file.read().split()[0]), signal.SIGTERM)
                    except (OSError, ValueError, IndexError):
                        pass


def empty_homes(servers):
    for home in servers.homes:
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home, mode=0o700)


# --- bootstrap

def bootstrap_environment(directory):
    environment = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    return {**environment, "BOOTSTRAP_HOME": f"{directory}/operator", "HOME": directory}


def ssh_options(servers):
    return ["-F", "none", "-i", servers.key, "-o", f"UserKnownHostsFile={servers.known_hosts}", "-o", "IdentitiesOnly=yes"]


def enroll_bootstrap(arguments, servers, directory, uploads):
    environment = bootstrap_environment(directory)
    shutil.rmtree(f"{directory}/operator", ignore_errors=True)
    run(arguments.binary, "ca", "init", "--trust-domain", "bench.example", env=environment)
    inventory = f"{directory}/hosts"
    with open(inventory, "w") as file:
        for index, port in enumerate(servers.ports):
            file.write(f"root@127.0.0.1:{port} device{index}\n")
    command = [arguments.binary, "enroll", "--inventory", inventory, "--parallel", str(arguments.parallel), "--base", "~/.local/share",
               "--agent-binary", arguments.agent, "--hbone-address", "127.0.0.1", "--hbone-port", "0", "--service", "none"]
    command += ssh_options(servers)
    if not uploads:
        timed(command, environment, f"{directory}/bootstrap.log")
        names = [f"device{index}" for index in range(len(servers.ports))]
        run(arguments.binary, "unenroll", "--keep-agent", *names, env=environment)
    seconds, memory = timed(command, environment, f"{directory}/bootstrap.log")
    enrolled = sum(os.path.exists(f"{home}/.local/share/bootstrap/state/identity/cert-chain.pem") for home in servers.homes)
    end_processes(servers, {"node.pid"})
    return seconds, memory, enrolled


# --- Ansible

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
  AGENT
  - name: directory
    file: {path: "{{ home }}/identity", state: directory, mode: "0700"}
  - name: key and request
    shell: >-
      umask 077 && cd {{ home }}/identity && openssl ecparam -name prime256v1 -genkey -noout -out key.pem &&
      openssl req -new -key key.pem -subj /CN={{ inventory_hostname }} -out request.pem
    args: {creates: "{{ home }}/identity/request.pem"}
  - name: fetch the request
    fetch: {src: "{{ home }}/identity/request.pem", dest: "WORK/{{ inventory_hostname }}.csr", flat: true}
  - name: sign
    command: >-
      openssl x509 -req -in WORK/{{ inventory_hostname }}.csr -CA WORK/ca.pem -CAkey WORK/ca.key
      -set_serial 0x{{ 999999999 | random }}{{ inventory_hostname | hash('md5') }} -days 1 -out WORK/{{ inventory_hostname }}.pem
    delegate_to: localhost
  - name: certificate
    copy: {src: "WORK/{{ inventory_hostname }}.pem", dest: "{{ home }}/identity/cert-chain.pem", mode: "0644"}
  - name: bundle
    copy: {src: WORK/ca.pem, dest: "{{ home }}/identity/root-cert.pem", mode: "0644"}
  - name: service
    shell: >-
      cd {{ home }}/identity && (nohup openssl s_server -accept 127.0.0.1:{{ service_port }} -cert cert-chain.pem -key key.pem -CAfile root-cert.pem
      -Verify 1 -quiet </dev/null >service.log 2>&1 & echo $! >service.pid)
"""


# What it costs Ansible to bring the same program there.
AGENT = """- name: agent
    copy: {src: "PATH", dest: "{{ home }}/bootstrap", mode: "0755"}"""


def ansible_files(servers, directory, names):
    work = f"{directory}/ansible"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{work}/ca.key",
        "-out", f"{work}/ca.pem", "-subj", "/CN=ca", "-days", "1")
    with open(f"{work}/hosts", "w") as file:
        for index in range(names):
            port = servers.ports[index % len(servers.ports)]
            file.write(f"device{index} ansible_host=127.0.0.1 ansible_port={port} ansible_user=root service_port={free_port()} "
                       f"home={servers.homes[index % len(servers.homes)]} "
                       "ansible_python_interpreter=/usr/bin/python3\n")
    with open(f"{work}/ansible.cfg", "w") as file:
        # As its own documentation advises for speed: many forks, one connection for each host, no temporary files. At one server more than
        # eight are turned away by MaxStartups, and Ansible does not try again.
        file.write(f"""[defaults]
inventory = {work}/hosts
forks = {20 if len(servers.ports) > 1 else 8}
private_key_file = {servers.key}
host_key_checking = True
local_tmp = {work}/tmp
[ssh_connection]
pipelining = True
control_path_dir = {work}/cp
ssh_args = -F none -o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile={servers.known_hosts} -o IdentitiesOnly=yes
""")
    environment = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    return work, {**environment, "ANSIBLE_CONFIG": f"{work}/ansible.cfg", "HOME": directory}


def ansible_ended(work):
    """The masters of its connections stay for a minute."""
    for name in os.listdir(f"{work}/cp") if os.path.isdir(f"{work}/cp") else []:
        subprocess.run(["ssh", "-O", "exit", "-S", f"{work}/cp/{name}", "x"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def enroll_ansible(arguments, servers, directory, uploads):
    work, environment = ansible_files(servers, directory, len(servers.ports))
    with open(f"{work}/site.yaml", "w") as file:
        agent = AGENT.replace("PATH", arguments.agent) if uploads else ""
        file.write(PLAYBOOK.replace("AGENT", agent).replace("WORK", work))
    playbook = os.path.join(arguments.tools, "ansible-playbook")
    seconds, memory = timed([playbook, f"{work}/site.yaml"], environment, f"{directory}/ansible.log")
    ansible_ended(work)
    enrolled = sum(os.path.exists(f"{home}/identity/service.pid") for home in servers.homes)
    end_processes(servers, {"service.pid"})
    return seconds, memory, enrolled


# --- one command, 1 MiB there, one file back

PARALLEL_SSH = """
import sys
from pssh.clients import ParallelSSHClient
from gevent import joinall
port, key, blob, remote, back, names, pool = sys.argv[1:]
names, pool = int(names), int(pool)
hosts = ["127.0.0.1"] * names
client = ParallelSSHClient(hosts, user="root", port=int(port), pkey=key, pool_size=pool, num_retries=10, retry_delay=0.2)
output = client.run_command("uname -sm")
client.join(output)
for host in output:
    assert list(host.stdout) == ["Linux x86_64"] or list(host.stdout), host
joinall(client.copy_file("%(local)s", "%(remote)s",
        copy_args=[{"local": blob, "remote": f"{remote}/p{i}"} for i in range(names)]), raise_error=True)
joinall(client.copy_remote_file("%(remote)s", "%(local)s",
        copy_args=[{"remote": f"{remote}/p{i}", "local": f"{back}/p{i}"} for i in range(names)]), raise_error=True)
"""


def command_bootstrap(arguments, servers, directory, blob, back):
    inventory = f"{directory}/names"
    with open(inventory, "w") as file:
        for index in range(arguments.names):
            file.write(f"root@127.0.0.1:{servers.ports[0]} name{index}\n")
    remote = servers.homes[0]
    command = [arguments.binary, "exec", "--inventory", inventory, "--parallel", str(arguments.parallel), "--put", f"{blob}:{remote}/b-{{name}}",
               "--get", f"{remote}/b-{{name}}:{back}/{{name}}"]
    return timed(command + ssh_options(servers) + ["--", "uname", "-sm"], bootstrap_environment(directory), f"{directory}/exec.log")


def command_parallel_ssh(arguments, servers, directory, blob, back):
    script = f"{directory}/parallel_ssh.py"
    with open(script, "w") as file:
        file.write(PARALLEL_SSH)
    return timed([os.path.join(arguments.tools, "python3"), script, str(servers.ports[0]), servers.key, blob, servers.homes[0], back,
                  str(arguments.names), str(arguments.parallel)], bootstrap_environment(directory), f"{directory}/pssh.log")


def command_ansible(arguments, servers, directory, blob, back):
    work, environment = ansible_files(servers, directory, arguments.names)
    with open(f"{work}/site.yaml", "w") as file:
        file.write(f"""
- hosts: all
  gather_facts: false
  tasks:
  - command: uname -sm
  - copy: {{src: "{blob}", dest: "{servers.homes[0]}/a-{{{{ inventory_hostname }}}}"}}
  - fetch: {{src: "{servers.homes[0]}/a-{{{{ inventory_hostname }}}}", dest: "{back}/{{{{ inventory_hostname }}}}", flat: true}}
""")
    result = timed([os.path.join(arguments.tools, "ansible-playbook"), f"{work}/site.yaml"], environment, f"{directory}/ansible.log")
    ansible_ended(work)
    return result


def command_round(arguments, servers, directory, tool, blob, digest):
    back = f"{directory}/back"
    shutil.rmtree(back, ignore_errors=True)
    os.makedirs(back)
    seconds, memory = tool(arguments, servers, directory, blob, back)
    whole = 0
    for name in os.listdir(back):
        with open(f"{back}/{name}", "rb") as file:
            whole += hashlib.sha256(file.read()).hexdigest() == digest
    empty_homes(servers)
    return seconds, memory, whole


# --- many

def many(arguments, directory):
    """Peak memory of one process that enrols so many names at ten sshds, for a tenth of them and for all."""
    servers = Servers(f"{directory}/many", 10) if not os.makedirs(f"{directory}/many") else None
    try:
        points = []
        for count in (arguments.many // 10, arguments.many):
            shutil.rmtree(f"{directory}/operator", ignore_errors=True)
            environment = bootstrap_environment(directory)
            run(arguments.binary, "ca", "init", "--trust-domain", "bench.example", env=environment)
            inventory = f"{directory}/many/hosts"
            with open(inventory, "w") as file:
                for index in range(count):
                    file.write(f"root@127.0.0.1:{servers.ports[index % 10]} m{index}\n")
            command = [arguments.binary, "enroll", "--inventory", inventory, "--parallel", str(arguments.parallel), "--agentless",
                       "--accept-known-machine", "--credential-dir", f"{directory}/many/devices/{{name}}"]
            seconds, memory = timed(command + ssh_options(servers), environment, f"{directory}/many.log")
            points.append({"hosts": count, "seconds": seconds, "perMinute": count * 60 / seconds, "peak": memory})
            shutil.rmtree(f"{directory}/many/devices")
        return points
    finally:
        servers.close()


def median(values):
    return statistics.median(values)


def markdown(fleet):
    lines = [f"{fleet['hosts']} hosts enrolled, {fleet['names']} names for the command, {fleet['parallel']} at a time "
             f"(Ansible: 20 for enrolment, 8 for the command), {fleet['rounds']} interleaved rounds; medians. Servers and tools share the machine's "
             f"{os.cpu_count()} cores.", "",
             "| | devices per minute | of the tool's | peak RSS, MB | failures |", "|---|---|---|---|---|"]
    for title, key in (("whole enrolment, the service's program is there", "enrolment"),
                       ("the same with the agent uploaded first", "installation"), ("one command, 1 MiB there, 1 MiB back", "command")):
        if not fleet[key]:
            continue
        ours = fleet[key]["bootstrap"]
        for name, value in fleet[key].items():
            ratio = median([a / b for a, b in zip(ours["perMinute"], value["perMinute"])])
            lines.append(f"| {title}: {name} | {median(value['perMinute']):,.0f} | " + ("" if name == "bootstrap" else f"bootstrap {ratio:.1f} ×")
                         + f" | {median(value['peak']) / 1e6:.0f} | {sum(value['failures'])} |")
    if fleet.get("many"):
        lines += ["", "One process, without an agent: " + "; ".join(
            f"{p['hosts']:,} names at ten sshds in {p['seconds']:.0f} s ({p['perMinute']:,.0f} per minute), peak RSS {p['peak'] / 1e6:.0f} MB"
            for p in fleet["many"]) + "."]
    return "\n".join(lines)


def write(fleet):
    path = f"{HERE}/results.json"
    with open(path) as file:
        results = json.load(file)
    results["fleet"] = fleet
    with open(path, "w") as file:
        json.dump(results, file, indent=1, sort_keys=True)
        file.write("\n")
    path = f"{HERE}/../docs/benchmarks.md"
    with open(path) as file:
        text = file.read()
    before, rest = text.split(BEGIN)
    with open(path, "w") as file:
        file.write(f"{before}{BEGIN}\n{markdown(fleet)}\n{END}{rest.split(END)[1]}")


def main():
    parser = argparse.ArgumentParser()
    cache = os.environ.get("BOOTSTRAP_TESTS_CACHE") or os.path.expanduser("~/.cache/bootstrap-tests")
    parser.add_argument("--binary", default=f"{HERE}/../.build/release/bootstrap")
    parser.add_argument("--agent", default=f"{HERE}/../dist/bootstrap-linux-{os.uname().machine}")
    parser.add_argument("--tools", default=f"{cache}/fleet/bin")
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--names", type=int, default=20)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--measures", default="enrolment,command,many")
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    arguments.binary, arguments.agent = os.path.abspath(arguments.binary), os.path.abspath(arguments.agent)
    if not os.path.exists(arguments.agent):
        arguments.agent = arguments.binary
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    measures = arguments.measures.split(",")
    fleet = {"hosts": arguments.hosts, "names": arguments.names, "parallel": arguments.parallel, "rounds": arguments.rounds,
             "enrolment": {}, "installation": {}, "command": {}}

    def note(measure, name, count, seconds, memory, done):
        entry = fleet[measure].setdefault(name, {"perMinute": [], "peak": [], "failures": []})
        entry["perMinute"].append(done * 60 / seconds)
        entry["peak"].append(memory)
        entry["failures"].append(count - done)
        print(f"{measure:12} {name:14} {seconds:7.2f} s  {done * 60 / seconds:8.1f} per minute  {memory / 1e6:5.0f} MB  "
              f"{count - done} failures", flush=True)

    with tempfile.TemporaryDirectory(prefix="bootstrap-fleet.") as directory:
        if "enrolment" in measures:
            os.makedirs(f"{directory}/hosts.d")
            servers = Servers(f"{directory}/hosts.d", arguments.hosts)
            try:
                for _ in range(arguments.rounds):
                    for measure, uploads in (("enrolment", False), ("installation", True)):
                        for name, tool in (("bootstrap", enroll_bootstrap), ("Ansible", enroll_ansible)):
                            note(measure, name, arguments.hosts, *tool(arguments, servers, directory, uploads))
                            empty_homes(servers)
            finally:
                servers.close()
        if "command" in measures:
            os.makedirs(f"{directory}/one.d")
            servers = Servers(f"{directory}/one.d", 1)
            blob = f"{directory}/blob"
            content = os.urandom(MIB)
            with open(blob, "wb") as file:
                file.write(content)
            digest = hashlib.sha256(content).hexdigest()
            tools = [("bootstrap", command_bootstrap), ("parallel-ssh", command_parallel_ssh), ("Ansible", command_ansible)]
            try:
                for _ in range(arguments.rounds):
                    for name, tool in tools:
                        note("command", name, arguments.names, *command_round(arguments, servers, directory, tool, blob, digest))
            finally:
                servers.close()
        if "many" in measures and arguments.many:
            fleet["many"] = many(arguments, directory)
            print(json.dumps(fleet["many"]), flush=True)
    print(markdown(fleet))
    if not arguments.no_write:
        write(fleet)


if __name__ == "__main__":
    sys.exit(main())
