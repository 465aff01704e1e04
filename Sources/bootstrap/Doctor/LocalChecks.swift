import CLinux
import Glibc
import MeshIdentity
import SSHSignal

/// What this machine needs to have, whatever the destination.
struct LocalChecks {
    let authority: CAAccess
    let agentBinary: String?

    func run() -> [Finding] {
        [home(), certificateAuthority(), agentProgram(), keyAgent(), descriptors()]
    }

    private func home() -> Finding {
        var status = stat()
        guard lstat(Home.path, &status) == 0 else {
            return errno == ENOENT
                ? .good("home", "\(Home.path) is not there yet; the first command makes it")
                : .failure(
                    "home",
                    "\(Home.path): \(String(cString: strerror(errno)))",
                    mend: "set BOOTSTRAP_HOME to a directory of yours"
                )
        }
        guard status.st_mode & S_IFMT == S_IFDIR || status.st_mode & S_IFMT == S_IFLNK else {
            return .failure("home", "\(Home.path) is no directory", mend: "move it away, or set BOOTSTRAP_HOME")
        }
        guard access(Home.path, R_OK | W_OK | X_OK) == 0 else {
            return .failure("home", "\(Home.path) cannot be written to", mend: "chown it to you, or set BOOTSTRAP_HOME")
        }
        guard status.st_mode & (S_IWGRP | S_IWOTH) == 0 else {
            return .failure("home", "others may write to \(Home.path)", mend: "chmod go-w \(Home.path)")
        }
        return .good("home", Home.path)
    }

    private func certificateAuthority() -> Finding {
        let path = authority.location.path
        guard access("\(path)/root-cert.pem", F_OK) == 0 || access(path, F_OK) == 0 else {
            return .warning(
                "CA",
                "there is none in \(path)",
                mend: "bootstrap ca init --trust-domain mesh.example"
            )
        }
        do throws(IdentityError) {
            let bundle = try EmbeddedCA.bundle(directory: path)
            let now = Int64(time(nil))
            guard let last = bundle.roots.map(\.notAfter).max() else {
                return .failure("CA", "\(path) has no certificate", mend: "restore it from a backup")
            }
            if last <= now {
                return .failure(
                    "CA",
                    "its certificate ended at \(Timestamp.text(last))",
                    mend: "bootstrap ca rotate, then bootstrap renew --all"
                )
            }
            if last - now < 30 * 86_400 {
                return .warning(
                    "CA",
                    "its certificate ends at \(Timestamp.text(last))",
                    mend: "bootstrap ca rotate, then bootstrap renew --all"
                )
            }
            return .good("CA", "\(path), trust domain \(bundle.trustDomain), until \(Timestamp.text(last))")
        } catch {
            return .failure("CA", error.message, mend: "restore \(path) from a backup, or name another with --ca")
        }
    }

    private func agentProgram() -> Finding {
        do throws(AgentBinaryError) {
            let agent = try agent()
            guard let interpreter = agent.interpreter else {
                return .good("agent", "\(agent.path), \(agent.size >> 20) MiB, static, \(agent.architecture)")
            }
            return .warning(
                "agent",
                "\(agent.path) is linked dynamically: it needs \(interpreter) and glibc \(agent.glibcVersion ?? "?") on every device",
                mend: "make static, and keep dist/bootstrap-linux-\(agent.architecture) beside this program"
            )
        } catch {
            return .failure("agent", error.message, mend: "name the program to upload with --agent-binary")
        }
    }

    func agent() throws(AgentBinaryError) -> AgentBinary {
        if let agentBinary { return try AgentBinary(path: agentBinary) }
        guard let executable = Executable.path else {
            throw AgentBinaryError(message: "the path of this program is not known; name it with --agent-binary")
        }
        return try AgentBinary(path: Executable.staticBuild(beside: executable) ?? executable)
    }

    private func keyAgent() -> Finding {
        guard let path = getenv("SSH_AUTH_SOCK").map({ String(cString: $0) }), !path.isEmpty else {
            return .good("ssh-agent", "none (SSH_AUTH_SOCK is not set); key files are used")
        }
        guard access(path, R_OK | W_OK) == 0 else {
            return .warning(
                "ssh-agent",
                "SSH_AUTH_SOCK names \(path), which is not there",
                mend: "start an agent (eval $(ssh-agent); ssh-add), or unset SSH_AUTH_SOCK"
            )
        }
        return .good("ssh-agent", path)
    }

    private func descriptors() -> Finding {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
            return .good("descriptors", "the limit is not known")
        }
        return limit.rlim_max < 1024
            ? .warning(
                "descriptors",
                "at most \(limit.rlim_max)",
                mend: "ulimit -Hn 65536 for hundreds of devices at a time"
            )
            : .good("descriptors", "at most \(limit.rlim_max)")
    }
}
